//! Arguments of ssh, as Ansible's variables carry them, in the words of our `ssh:`.

use serde_json::{Map, Value, json};

/// Adds to `ssh` what the arguments say.
///
/// Errors: an argument that would silently be lost.
pub(super) fn read(args: &str, ssh: &mut Map<String, Value>) -> Result<(), String> {
    let mut words = words(args)?.into_iter();
    while let Some(word) = words.next() {
        let (flag, joined) = word.split_at_checked(2).ok_or_else(|| lost(&word))?;
        let mut value =
            || if joined.is_empty() { words.next().unwrap_or_default() } else { joined.to_owned() };
        match flag {
            "-o" => {
                let text = value();
                let (name, value) = text.split_once(['=', ' ']).ok_or_else(|| lost(&text))?;
                option(name, value.trim(), ssh)?;
            }
            "-J" => option("ProxyJump", &value(), ssh)?,
            "-i" => option("IdentityFile", &value(), ssh)?,
            "-p" => option("Port", &value(), ssh)?,
            "-l" => option("User", &value(), ssh)?,
            _ if word == "-C" => option("Compression", "yes", ssh)?,
            _ if word == "-4" => option("AddressFamily", "inet", ssh)?,
            _ if word == "-6" => option("AddressFamily", "inet6", ssh)?,
            // Nothing that kvmfw does depends on these.
            _ if matches!(word.as_str(), "-q" | "-A" | "-a" | "-x" | "-T" | "-t" | "-tt") => {}
            _ => return Err(lost(&word)),
        }
    }
    Ok(())
}

fn lost(what: &str) -> String {
    format!("ssh argument `{what}` is not supported here; put it into ssh_config")
}

fn option(name: &str, value: &str, ssh: &mut Map<String, Value>) -> Result<(), String> {
    let (key, value) = match name.to_ascii_lowercase().as_str() {
        "proxyjump" => ("jump", json!(value)),
        "proxycommand" => ("jump", json!(jump(value)?)),
        "userknownhostsfile" => ("known_hosts", json!(value)),
        "identityfile" => ("identity_file", json!(value)),
        "user" => ("user", json!(value)),
        "port" => ("port", json!(value.parse::<u16>().map_err(|_| lost(&format!("-p {value}")))?)),
        "connecttimeout" => ("connect_timeout", json!(format!("{value}s"))),
        // Connections are kept and ended by kvmfw itself, which never asks and forwards nothing.
        "controlmaster" | "controlpersist" | "controlpath" | "batchmode" | "forwardagent" | "requesttty" => {
            return Ok(());
        }
        _ => {
            ssh.entry("options").or_insert_with(|| json!({}))[name] = value.into();
            return Ok(());
        }
    };
    // As in ssh, what comes first counts; Ansible's own variables come before.
    ssh.entry(key).or_insert(value);
    Ok(())
}

/// The jump host of `ssh -W %h:%p USER@HOST`, which is how ProxyJump was written before there was one.
fn jump(command: &str) -> Result<String, String> {
    let more = || {
        format!(
            "ProxyCommand `{command}` does more than ssh's -W to a jump host; write ProxyJump, or put it into ssh_config"
        )
    };
    let mut words = words(command)?.into_iter();
    if words.next().as_deref() != Some("ssh") {
        return Err(more());
    }
    let (mut user, mut port, mut host, mut forwards) = (None, None, None, false);
    while let Some(word) = words.next() {
        match word.as_str() {
            "-q" => {}
            "-W" => forwards = words.next().is_some_and(|to| to == "%h:%p" || to == "[%h]:%p"),
            "-l" => user = words.next(),
            "-p" => port = words.next(),
            other if other.starts_with('-') || host.is_some() => return Err(more()),
            _ => host = Some(word),
        }
    }
    let host = host.filter(|_| forwards).ok_or_else(more)?;
    let user = user.map_or_else(String::new, |user| format!("{user}@"));
    Ok(format!("{user}{host}{}", port.map_or_else(String::new, |port| format!(":{port}"))))
}

/// A text taken apart as a shell does it, less everything that a shell would put in.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), _) if open == c => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(chars.next()),
            (None, _) if c.is_whitespace() => all.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(format!("a quote is not closed in the ssh arguments `{text}`"));
    }
    all.extend(word);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ssh(args: &str) -> Result<String, String> {
        let mut ssh = Map::new();
        read(args, &mut ssh).map(|()| Value::Object(ssh).to_string())
    }

    #[test]
    fn what_ansible_users_write() {
        for (args, ours) in [
            ("-J bastion", r#"{"jump":"bastion"}"#),
            (
                "-o ProxyJump=ops@b1,b2:2222 -C",
                r#"{"jump":"ops@b1,b2:2222","options":{"Compression":"yes"}}"#,
            ),
            (r#"-o ProxyCommand="ssh -W %h:%p -q ops@bastion""#, r#"{"jump":"ops@bastion"}"#),
            ("-o 'ProxyCommand=ssh -p 2222 -l ops bastion -W %h:%p'", r#"{"jump":"ops@bastion:2222"}"#),
            (
                "-oConnectTimeout=5 -o ControlMaster=auto -o ControlPersist=60s -A",
                r#"{"connect_timeout":"5s"}"#,
            ),
            ("-i '/keys/a key' -p 22 -l root", r#"{"identity_file":"/keys/a key","port":22,"user":"root"}"#),
            ("-o \"ServerAliveInterval 5\"", r#"{"options":{"ServerAliveInterval":"5"}}"#),
            ("", "{}"),
        ] {
            assert_eq!(ssh(args).as_deref(), Ok(ours), "{args}");
        }
    }

    #[test]
    fn what_would_be_lost() {
        for args in [
            "-F /etc/other",
            "-o",
            "-L 1:2:3",
            "-p ssh",
            "-o ProxyCommand='nc -x proxy %h %p'",
            "-o ProxyCommand='ssh bastion nc %h %p'",
            "-o ProxyCommand='ssh -W %h:%p -o StrictHostKeyChecking=no bastion'",
            "-o ProxyCommand='ssh -W elsewhere:22 bastion'",
            "-J 'bastion",
        ] {
            assert!(ssh(args).is_err(), "{args}");
        }
    }
}
