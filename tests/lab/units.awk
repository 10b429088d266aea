# Reads unit files and writes the script of a boot, in init.sh's words. The parts of systemd.unit(5),
# systemd.service(5) and systemd.exec(5) that decide what is run, when and how are kept to; what is
# not known is left out. Sections of the input start with a \001 line:
#   F name (a unit file, the first of a name counts) · D name (a drop-in) · A name of (an alias)
#   W unit wanted · R unit required
# With -v only=UNIT the script runs that one unit, dependencies or not.

/^\001/ {
    flush_line()
    kind = substr($1, 2); name = $2; section = ""
    if (kind == "F") { reading = !(name in known); known[name] = 1 }
    else if (kind == "D") reading = 1
    else {
        reading = 0
        if (kind == "A") alias[name] = $3
        else { sub(/^R$/, "Requires", kind); sub(/^W$/, "Wants", kind); links = links name " " kind " " $3 "\n" }
    }
    next
}
!reading { next }
{
    line = $0
    if (held == "" || line ~ /^[ \t]*[#;]/) { if (line ~ /^[ \t]*([#;]|$)/) next }
    if (line ~ /\\$/) { held = held substr(line, 1, length(line) - 1) " "; next }
    held = held line
    flush_line()
}
function flush_line(    key, value) {
    sub(/^[ \t]+/, "", held); sub(/[ \t]+$/, "", held)
    if (held ~ /^\[.*\]$/) { section = held; if (held == "[Masked]") masked[name] = 1 }
    else if (match(held, /^[A-Za-z]+[ \t]*=/) && (section == "[Unit]" || section == "[Service]")) {
        key = substr(held, 1, RLENGTH - 1); sub(/[ \t]+$/, "", key)
        value = substr(held, RLENGTH + 1); sub(/^[ \t]+/, "", value)
        if (value == "") count[name, key] = 0
        else {
            count[name, key]++
            values[name, key, count[name, key]] = value
            if (key ~ /^(Condition|Assert|Exec)/ && !seen[name, key]++) keys[name] = keys[name] " " key
        }
    }
    held = ""
}
function last(name, key) { return count[name, key] ? values[name, key, count[name, key]] : "" }
function all(name, key,    i, text) {
    for (i = 1; i <= count[name, key]; i++) text = text " " values[name, key, i]
    return text
}
function real(name) { return (name in alias) ? alias[name] : name }
function default_deps(name) { return last(name, "DefaultDependencies") !~ /^(no|false|off|0)$/ }
function quote(s) { gsub(/'/, "'\\''", s); return "'" s "'" }

# A template's instance borrows the template's text.
function instantiate(name,    template, i, k, n, list) {
    if ((name in known) || !match(name, /@.+\./)) return
    template = name; sub(/@.*\./, "@.", template)
    if (!(template in known)) return
    known[name] = 1; keys[name] = keys[template]
    for (k in count) {
        split(k, list, SUBSEP)
        if (list[1] == template) {
            count[name, list[2]] = count[k]
            for (i = 1; i <= count[k]; i++) values[name, list[2], i] = values[template, list[2], i]
        }
    }
}
function pull(name) {
    name = real(name); instantiate(name)
    if ((name in job) || !(name in known) || (name in masked) || name !~ /\.(service|target)$/) return
    job[name] = 1; queue[++queued] = name
}
function edge(a, b) { # a before b
    a = real(a); b = real(b)
    if (a == b || !(a in job) || !(b in job) || ((a, b) in edges)) return
    edges[a, b] = 1; waits[b]++
}
function need(a, b) { # unit a wants or requires b
    if (a ~ /\.target$/ && default_deps(a) && default_deps(real(b))) complement[++complements] = b " " a
}
function spread(name,    list, n, i) {
    n = split(all(name, "Wants") " " all(name, "Requires") " " all(name, "BindsTo"), list)
    for (i = 1; i <= n; i++) { pull(list[i]); need(name, list[i]) }
    n = split(wanted[name], list)
    for (i = 1; i <= n; i++) { pull(list[i]); need(name, list[i]) }
}
END {
    flush_line()
    n = split(links, row, "\n")
    for (i = 1; i < n; i++) {
        split(row[i], f, " ")
        name = real(f[1])
        wanted[name] = wanted[name] " " f[3]
        if (f[2] == "Requires") required[name] = required[name] " " f[3]
    }
    if (only != "") { name = real(only); instantiate(name); if (name in known) unit(name); exit }
    pull(start)
    for (q = 1; q <= queued; q++) spread(queue[q])
    for (q = 1; q <= queued; q++) {
        name = queue[q]
        m = split(all(name, "After"), list)
        for (i = 1; i <= m; i++) edge(list[i], name)
        m = split(all(name, "Before"), list)
        for (i = 1; i <= m; i++) edge(name, list[i])
        if (name ~ /\.service$/ && default_deps(name)) { edge("sysinit.target", name); edge("basic.target", name) }
    }
    for (i = 1; i <= complements; i++) {
        split(complement[i], f, " ")
        # An explicit order the other way round wins.
        if (!((real(f[2]), real(f[1])) in edges)) edge(f[1], f[2])
    }
    for (done = 0; done < queued; done++) {
        best = ""
        for (name in job) if (!waits[name] && (best == "" || name < best)) best = name
        if (best == "") {
            text = ""
            for (name in job) { text = text " " name; if (best == "" || name < best) best = name }
            print "echo " quote("[FAILED] ordering cycle among" text ", broken at " best)
        }
        delete job[best]
        for (name in job) if ((best, name) in edges) waits[name]--
        unit(best)
    }
}
function unit(name,    type, limit, list, n, i, k, m) {
    if (name ~ /\.target$/) { print "U " quote(name) " target 0 '' ''; Z"; return }
    type = last(name, "Type")
    if (type == "") type = count[name, "ExecStart"] ? "simple" : "oneshot"
    type = (type == "oneshot" || type == "forking") ? "wait" : "background"
    limit = last(name, "TimeoutStartSec"); if (limit == "") limit = last(name, "TimeoutSec")
    if (limit !~ /^[0-9]+(s|min)?$/) limit = 90
    sub(/min$/, "m", limit)
    print "U " quote(name) " " type " " limit " " quote(all(name, "Requires") all(name, "BindsTo") required[name]) " " quote(all(name, "OnFailure"))
    environment(name)
    n = split(keys[name], list)
    for (k = 1; k <= n; k++) if (list[k] ~ /^(Condition|Assert)/)
        for (i = 1; i <= count[name, list[k]]; i++) condition(list[k], values[name, list[k], i], name)
    m = split(all(name, "RuntimeDirectory"), list); for (i = 1; i <= m; i++) print "M " quote("/run/" list[i])
    m = split(all(name, "StateDirectory"), list); for (i = 1; i <= m; i++) print "M " quote("/var/lib/" list[i])
    if (last(name, "User") !~ /^(root|0)?$/) print "B " quote("User= is not supported here")
    phase(name, "ExecCondition", "condition"); phase(name, "ExecStartPre", "pre")
    phase(name, "ExecStart", "main"); phase(name, "ExecStartPost", "post")
    print "Z"
}
function condition(key, value, name,    trigger, not) {
    sub(/^(Condition|Assert)/, "", key)
    if (sub(/^\|[ \t]*/, "", value)) trigger = "|"
    if (sub(/^![ \t]*/, "", value)) not = "!"
    print "C " quote(trigger) " " quote(not) " " quote(key) " " quote(specifiers(value, name))
}
function environment(name,    i, n, j, line, file, optional, eq) {
    delete env
    env["PATH"] = ENVIRON["PATH"]
    for (i = 1; i <= count[name, "Environment"]; i++) {
        n = words(values[name, "Environment", i])
        for (j = 1; j <= n; j++) set(specifiers(word[j], name))
    }
    for (i = 1; i <= count[name, "EnvironmentFile"]; i++) {
        file = values[name, "EnvironmentFile", i]; optional = sub(/^-/, "", file)
        if ((getline line <file) < 0) { if (!optional) print "B " quote("no " file); continue }
        do if (line ~ /^[ \t]*[A-Za-z_][A-Za-z0-9_]*=/) {
            eq = index(line, "="); n = words(substr(line, eq + 1))
            sub(/^[ \t]+/, "", line); eq = index(line, "=")
            set(substr(line, 1, eq) (n ? word[1] : ""))
        } while ((getline line <file) > 0)
        close(file)
    }
}
function set(pair,    eq) {
    eq = index(pair, "=")
    if (!eq) return
    env[substr(pair, 1, eq - 1)] = substr(pair, eq + 1)
    print "N " quote(pair)
}
function specifiers(s, name,    out, c, at, prefix, instance) {
    prefix = name; sub(/\.[a-z]+$/, "", prefix)
    if (match(prefix, /@/)) { instance = substr(prefix, RSTART + 1); prefix = substr(prefix, 1, RSTART - 1) }
    while ((at = index(s, "%"))) {
        out = out substr(s, 1, at - 1); c = substr(s, at + 1, 1); s = substr(s, at + 2)
        out = out (c == "%" ? "%" : c == "n" ? name : c == "p" ? prefix : c == "i" || c == "I" ? instance : \
            c == "H" || c == "l" ? ENVIRON["LAB_NAME"] : c == "t" ? "/run" : c == "S" ? "/var/lib" : c == "E" ? "/etc" : \
            c == "L" ? "/var/log" : c == "T" ? "/tmp" : c == "V" ? "/var/tmp" : "%" c)
    }
    return out s
}
# Splits a line into word[], with systemd's quotes and escapes; 0 and the reason in trouble if systemd refuses it.
function words(s,    n, i, c, q, w, open, escapes) {
    trouble = ""; n = 0; w = ""; open = 0; q = ""
    for (i = 1; i <= length(s); i++) {
        c = substr(s, i, 1)
        if (c == "\\") {
            c = substr(s, ++i, 1); open = 1
            if (c == "n") w = w "\n"; else if (c == "t") w = w "\t"; else if (c == "s") w = w " "
            else if (c == "r") w = w "\r"
            else if (c == "\\" || c == "\"" || c == "'" || (c == ";" && !q)) w = w (c == ";" ? "\002" : c)
            else { trouble = "unknown escape \\" c; return 0 }
        } else if (q != "") { if (c == q) q = ""; else w = w c }
        else if (c == "\"" || c == "'") { q = c; open = 1 }
        else if (c == " " || c == "\t") { if (open) { word[++n] = w; w = ""; open = 0 } }
        else { w = w c; open = 1 }
    }
    if (q != "") { trouble = "unbalanced quote"; return 0 }
    if (open) word[++n] = w
    return n
}
function braces(s,    out, at, end, v) { # ${NAME} anywhere, $$ is $
    while ((at = index(s, "$"))) {
        out = out substr(s, 1, at - 1); s = substr(s, at + 1)
        if (substr(s, 1, 1) == "$") { out = out "$"; s = substr(s, 2) }
        else if (match(s, /^\{[A-Za-z_][A-Za-z0-9_]*\}/)) {
            v = substr(s, 2, RLENGTH - 2); out = out env[v]; s = substr(s, RLENGTH + 1)
        } else out = out "$"
    }
    return out s
}
function phase(name, key, what,    i, n, j, k, m, line, prefix, out, first, part, list) {
    for (i = 1; i <= count[name, key]; i++) {
        line = values[name, key, i]; prefix = ""
        if (match(line, /^[-@:+!|]+/)) { prefix = substr(line, 1, RLENGTH); line = substr(line, RLENGTH + 1) }
        n = words(line)
        if (!n) { print "B " quote(key "=" line ": " (trouble ? trouble : "empty")); continue }
        out = ""; first = 1
        for (j = 1; j <= n; j++) {
            part = word[j]
            if (part == ";") { if (out) print "X " what " " quote(prefix) out; out = ""; first = 1; continue }
            gsub(/\002/, ";", part)
            part = specifiers(part, name)
            if (first) { out = " " quote(part); first = 0; if (prefix ~ /@/) j++; continue }
            if (prefix !~ /:/) {
                if (part ~ /^\$[A-Za-z_][A-Za-z0-9_]*$/) {
                    m = split(env[substr(part, 2)], list)
                    for (k = 1; k <= m; k++) out = out " " quote(list[k])
                    continue
                }
                part = braces(part)
            }
            out = out " " quote(part)
        }
        if (out) print "X " what " " quote(prefix) out
    }
}
