//! Inventories that are JSON: our own shape from a program, or what `ansible-inventory --list` prints.
//! Both become our YAML, and that alone is read.

use super::stanza::quoted;
use super::{names, ssh_arguments};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Hosts' variable whose value is what an entry of ours would state: modules, params, bridges, …
const OURS: &str = "kvmfw";

/// Turns JSON into our YAML; `None` if the text is no JSON object.
///
/// Errors: what in an Ansible inventory cannot be said in ours, naming the host.
pub fn translate(text: &str) -> Result<Option<String>, String> {
    if is_theirs(text) {
        let message =
            "this is an Ansible inventory; kvmfw reads the output of `ansible-inventory -i FILE --list`";
        return Err(message.to_owned());
    }
    if !text.trim_start().starts_with('{') {
        return Ok(None);
    }
    let Ok(Value::Object(root)) = serde_json::from_str::<Value>(text) else { return Ok(None) };
    let root =
        if root.contains_key("_meta") || root.contains_key("all") { from_ansible(&root)? } else { root };
    let mut out = String::new();
    map(&root, 0, false, &mut out);
    Ok(Some(out))
}

/// Whether a text is an inventory as people write it for Ansible, INI or YAML, by its first line.
fn is_theirs(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim_end);
    let first =
        lines.find(|l| !l.is_empty() && !l.starts_with(['#', ';']) && *l != "---").unwrap_or_default();
    let section = first.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    section.is_some_and(|name| name.chars().all(|c| c.is_alphanumeric() || "_-:.".contains(c)))
        || matches!(first, "all:" | "ungrouped:")
        || first.contains(" ansible_") && first.contains('=')
}

fn from_ansible(root: &Map<String, Value>) -> Result<Map<String, Value>, String> {
    let strings = |value: Option<&Value>| -> Vec<String> {
        let list = value.and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let empty = Map::new();
    let vars = root.get("_meta").and_then(|m| m.get("hostvars")).and_then(Value::as_object).unwrap_or(&empty);
    let mut parents: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut members: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut hosts: BTreeSet<String> = vars.keys().cloned().collect();
    for (group, value) in root.iter().filter(|(name, _)| *name != "_meta") {
        // The old short form of a group is the list of its hosts.
        let of_group = if value.is_array() { strings(Some(value)) } else { strings(value.get("hosts")) };
        let own = !matches!(group.as_str(), "all" | "ungrouped");
        if own {
            names::check_host(group).map_err(|why| format!("group `{group}` {why}; rename it"))?;
            parents.entry(group.clone()).or_default();
        }
        for child in strings(value.get("children")).into_iter().filter(|c| own && c != "ungrouped") {
            parents.entry(child).or_default().insert(group.clone());
        }
        for host in of_group {
            if own {
                members.entry(host.clone()).or_default().insert(group.clone());
            }
            hosts.insert(host);
        }
    }
    let mut all = Map::new();
    for host in &hosts {
        let vars = vars.get(host).and_then(Value::as_object).unwrap_or(&empty);
        let entry = host_entry(host, vars, members.get(host))?;
        all.insert(host.clone(), Value::Object(entry));
    }
    let groups: Map<String, Value> = parents
        .into_iter()
        .map(|(name, parents)| {
            (name, if parents.is_empty() { json!({}) } else { json!({ "groups": parents }) })
        })
        .collect();
    let mut ours = Map::new();
    ours.insert("hosts".to_owned(), Value::Object(all));
    ours.insert("groups".to_owned(), Value::Object(groups));
    Ok(ours)
}

/// One host with its connection variables.
fn host_entry(
    host: &str,
    vars: &Map<String, Value>,
    groups: Option<&BTreeSet<String>>,
) -> Result<Map<String, Value>, String> {
    let text = |names: &[&str]| {
        let found = names.iter().find_map(|name| vars.get(*name))?;
        let text = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
        (!text.is_empty() && !found.is_null()).then_some(text)
    };
    if let Some(kind) = text(&["ansible_connection"])
        && !matches!(kind.as_str(), "ssh" | "smart" | "paramiko" | "paramiko_ssh" | "ansible.builtin.ssh")
    {
        return Err(format!(
            "host `{host}` has ansible_connection `{kind}`; kvmfw reaches hosts by ssh only"
        ));
    }
    if let Some((name, value)) = vars.iter().find(|(name, value)| {
        name.starts_with("ansible_") && value.as_str().is_some_and(|v| v.contains("{{"))
    }) {
        return Err(format!("host `{host}`: {name} is a template ({value}); give it a value"));
    }
    let mut ssh = Map::new();
    if let Some(user) = text(&["ansible_user", "ansible_ssh_user"]) {
        ssh.insert("user".to_owned(), user.into());
    }
    if let Some(port) = text(&["ansible_port", "ansible_ssh_port"]) {
        let port: u16 =
            port.parse().map_err(|_| format!("host `{host}`: ansible_port `{port}` is not a valid port"))?;
        ssh.insert("port".to_owned(), port.into());
    }
    if let Some(file) = text(&["ansible_ssh_private_key_file", "ansible_private_key_file"]) {
        ssh.insert("identity_file".to_owned(), file.into());
    }
    if text(&["ansible_become", "ansible_ssh_become"]).is_some_and(|on| is_true(&on)) {
        if let Some(method) = text(&["ansible_become_method"])
            && method != "sudo"
            && method != "ansible.builtin.sudo"
        {
            return Err(format!(
                "host `{host}` has ansible_become_method `{method}`; kvmfw supports sudo only"
            ));
        }
        if let Some(user) = text(&["ansible_become_user"]).filter(|user| user != "root") {
            return Err(format!("host `{host}` has ansible_become_user `{user}`; kvmfw has to become root"));
        }
        ssh.insert("become".to_owned(), "sudo".into());
    }
    if let Some(seconds) = text(&["ansible_ssh_timeout", "ansible_timeout"]) {
        ssh.insert("connect_timeout".to_owned(), format!("{seconds}s").into());
    }
    for args in ["ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args"] {
        if let Some(args) = text(&[args]) {
            ssh_arguments::read(&args, &mut ssh).map_err(|why| format!("host `{host}`: {why}"))?;
        }
    }
    if text(&["ansible_ssh_host_key_checking", "ansible_host_key_checking"]).is_some_and(|on| !is_true(&on)) {
        let options = ssh.entry("options").or_insert_with(|| json!({}));
        options["StrictHostKeyChecking"] = "no".into();
    }
    let mut entry = Map::new();
    if let Some(address) = text(&["ansible_host", "ansible_ssh_host"]).filter(|address| address != host) {
        entry.insert("address".to_owned(), address.into());
    }
    if let Some(groups) = groups {
        entry.insert("groups".to_owned(), json!(groups));
    }
    if !ssh.is_empty() {
        entry.insert("ssh".to_owned(), Value::Object(ssh));
    }
    match vars.get(OURS) {
        None | Some(Value::Null) => {}
        Some(Value::Object(ours)) => {
            for (key, value) in ours {
                if entry.contains_key(key) {
                    return Err(format!(
                        "host `{host}`: `{key}` is set under `{OURS}` and in Ansible's variables"
                    ));
                }
                entry.insert(key.clone(), value.clone());
            }
        }
        Some(_) => return Err(format!("host `{host}`: the variable `{OURS}` is not a map")),
    }
    Ok(entry)
}

/// What Ansible takes for true.
fn is_true(text: &str) -> bool {
    matches!(text.to_ascii_lowercase().as_str(), "true" | "yes" | "y" | "t" | "1" | "1.0" | "on")
}

/// A map as block YAML; texts of rules as literal blocks, the only form they are read in.
fn map(entries: &Map<String, Value>, indent: usize, rules: bool, out: &mut String) {
    for (key, value) in entries {
        let _ = write!(out, "{:indent$}{}:", "", quoted(key));
        let rules = rules || matches!(key.as_str(), "iptables" | "ip6tables");
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                map(inner, indent + 2, rules, out);
            }
            Value::String(text) if rules && block(text) => {
                out.push_str(" |\n");
                for line in text.lines() {
                    let _ = writeln!(out, "{:1$}{line}", "", indent + 2);
                }
            }
            other => {
                let _ = writeln!(out, " {}", flow(other));
            }
        }
    }
}

/// Whether a text comes back unchanged from a literal block.
fn block(text: &str) -> bool {
    (text.contains([' ', '\n']) || text.starts_with('*'))
        && !text.starts_with([' ', '\t', '\n'])
        && text.lines().all(|line| !line.chars().any(char::is_control))
}

fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Object(entries) if entries.is_empty() => "{ }".to_owned(),
        Value::Object(entries) => {
            let all: Vec<String> =
                entries.iter().map(|(k, v)| format!("{}: {}", quoted(k), flow(v))).collect();
            format!("{{ {} }}", all.join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ansible_prints() {
        let text = r#"{
          "_meta": { "hostvars": {
            "kvm1": { "ansible_host": "192.0.2.1", "ansible_port": 2222, "ansible_user": "admin", "ansible_become": true,
                      "ansible_ssh_common_args": "-o ProxyJump=bastion -o ServerAliveInterval=5 -o ControlMaster=auto",
                      "ansible_ssh_private_key_file": "/k", "other": 1,
                      "kvmfw": { "modules": ["host-firewall"], "iptables": { "filter": { "INPUT": { "rules": "! -s 10.0.0.0/8 -j DROP\n" } } } } },
            "kvm2": {} } },
          "all": { "children": ["ungrouped", "dc1"] },
          "dc1": { "children": ["storage"] },
          "storage": { "hosts": ["kvm1"] },
          "ungrouped": { "hosts": ["kvm2", "kvm3"] }
        }"#;
        let yaml = translate(text).unwrap().unwrap();
        let expected = "\
groups:
  dc1: { }
  storage:
    groups: [dc1]
hosts:
  kvm1:
    address: \"192.0.2.1\"
    groups: [storage]
    iptables:
      filter:
        INPUT:
          rules: |
            ! -s 10.0.0.0/8 -j DROP
    modules: [host-firewall]
    ssh:
      become: sudo
      identity_file: \"/k\"
      jump: bastion
      options:
        ServerAliveInterval: \"5\"
      port: 2222
      user: admin
  kvm2: { }
  kvm3: { }
";
        let lines = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(lines(&yaml), lines(expected), "{yaml}");
    }

    #[test]
    fn what_would_be_lost_is_refused() {
        let host =
            |vars: &str| translate(&format!(r#"{{"_meta": {{"hostvars": {{"k": {vars}}}}}}}"#)).unwrap_err();
        assert!(host(r#"{"ansible_connection": "local"}"#).contains("by ssh only"));
        assert!(host(r#"{"ansible_host": "{{ ip }}"}"#).contains("template"));
        assert!(host(r#"{"ansible_become": "yes", "ansible_become_method": "su"}"#).contains("sudo only"));
        assert!(host(r#"{"ansible_ssh_common_args": "-F x"}"#).contains("not supported here"));
        assert!(host(r#"{"ansible_become": true, "ansible_become_user": "deploy"}"#).contains("become root"));
        assert!(host(r#"{"kvmfw": 1}"#).contains("not a map"));
        assert!(host(r#"{"ansible_port": "ssh"}"#).contains("not a valid port"));
    }

    #[test]
    fn what_people_write_for_ansible_is_known() {
        for text in [
            "# fleet\n\n[storage:children]\nkvm1\n",
            "kvm1 ansible_host=192.0.2.1\n",
            "---\nall:\n  hosts:\n    kvm1:\n",
        ] {
            assert!(translate(text).unwrap_err().contains("--list"), "{text}");
        }
        assert!(!is_theirs("hosts:\n  kvm1: { }\n") && !is_theirs("[a, b]") && !is_theirs("{}"));
    }

    #[test]
    fn only_json_is_translated() {
        assert_eq!(translate("hosts: { kvm1: { } }").unwrap(), None);
        assert_eq!(translate("{ hosts: { kvm1: { } } }").unwrap(), None);
        let ours = translate(
            r#"{"hosts": {"kvm1": {"iptables": {"filter": {"INPUT": {"first": "-p tcp -j DROP"}}}}}}"#,
        );
        assert!(ours.unwrap().unwrap().contains("first: |\n            -p tcp -j DROP\n"));
    }
}
