//! `ssh:` of a group or host. Nothing in it may run a command where kvmfw runs.

use super::BecomeMethod;
use super::reader::{InventoryReader, Spanned};
use crate::problem::{Problem, did_you_mean};
use crate::yaml::{Node, Value};
use std::path::PathBuf;
use std::time::Duration;

/// What one group or host says about connections; what is not stated is `None`.
#[derive(Clone, Debug, Default)]
pub struct SshStatement {
    /// `port`.
    pub port: Option<Spanned<u16>>,
    /// `user`.
    pub user: Option<Spanned<String>>,
    /// `become`.
    pub become_root: Option<Spanned<BecomeMethod>>,
    /// `identity_file`, absolute.
    pub identity_file: Option<Spanned<PathBuf>>,
    /// `known_hosts`, absolute.
    pub known_hosts: Option<Spanned<PathBuf>>,
    /// `jump`.
    pub jump: Option<Spanned<String>>,
    /// `options`.
    pub options: Vec<(String, Spanned<String>)>,
    /// `connect_timeout`.
    pub connect_timeout: Option<Spanned<Duration>>,
}

/// The keys of `ssh:`.
pub(super) const KEYS: [&str; 8] =
    ["port", "user", "become", "identity_file", "known_hosts", "jump", "options", "connect_timeout"];

/// Options of ssh_config(5) that an inventory may set.
pub(super) const OPTIONS: [&str; 41] = [
    "AddressFamily",
    "BindAddress",
    "BindInterface",
    "CASignatureAlgorithms",
    "CanonicalDomains",
    "CanonicalizeFallbackLocal",
    "CanonicalizeHostname",
    "CanonicalizeMaxDots",
    "CanonicalizePermittedCNAMEs",
    "CertificateFile",
    "CheckHostIP",
    "Ciphers",
    "Compression",
    "ConnectionAttempts",
    "EnableSSHKeysign",
    "FingerprintHash",
    "GSSAPIAuthentication",
    "GlobalKnownHostsFile",
    "HashKnownHosts",
    "HostKeyAlgorithms",
    "HostKeyAlias",
    "HostbasedAcceptedAlgorithms",
    "HostbasedAuthentication",
    "IPQoS",
    "IdentitiesOnly",
    "IdentityAgent",
    "KbdInteractiveAuthentication",
    "KexAlgorithms",
    "LogLevel",
    "MACs",
    "NoHostAuthenticationForLocalhost",
    "PasswordAuthentication",
    "PreferredAuthentications",
    "PubkeyAcceptedAlgorithms",
    "PubkeyAuthentication",
    "RekeyLimit",
    "RequiredRSASize",
    "ServerAliveCountMax",
    "ServerAliveInterval",
    "StrictHostKeyChecking",
    "TCPKeepAlive",
];

/// Why an option is refused; lower case.
fn refused(option: &str) -> Option<&'static str> {
    Some(match option.to_ascii_lowercase().as_str() {
        "proxycommand" | "localcommand" | "permitlocalcommand" | "knownhostscommand" => {
            "it runs a command on the controller"
        }
        "match" | "include" | "host" => "it could add options that run commands on the controller",
        "pkcs11provider" | "securitykeyprovider" | "xauthlocation" | "proxyusefdpass" => {
            "it loads or runs a program on the controller"
        }
        "controlmaster"
        | "controlpath"
        | "controlpersist"
        | "batchmode"
        | "remotecommand"
        | "requesttty"
        | "sessiontype"
        | "stdinnull"
        | "forkafterauthentication"
        | "connecttimeout"
        | "tag" => "kvmfw sets it itself",
        "localforward"
        | "remoteforward"
        | "dynamicforward"
        | "tunnel"
        | "tunneldevice"
        | "forwardagent"
        | "forwardx11"
        | "forwardx11trusted"
        | "gatewayports"
        | "permitremoteopen"
        | "sendenv"
        | "setenv"
        | "clearallforwardings"
        | "exitonforwardfailure"
        | "gssapidelegatecredentials" => "it opens a connection between the host and the controller",
        // Not even a key that is right: which file or agent of the user takes it is not for an inventory to say.
        "updatehostkeys" | "addkeystoagent" => "it writes to a file or an agent on the controller",
        "user" | "port" | "hostname" | "proxyjump" | "identityfile" | "userknownhostsfile" => {
            "kvmfw has separate keys for it: user, port, address, jump, identity_file, known_hosts"
        }
        _ => return None,
    })
}

/// Words of ssh, Ansible and Terraform for the keys of `ssh:`.
const WORDS: [(&str, &str); 11] = [
    ("key", "identity_file"),
    ("key_file", "identity_file"),
    ("private_key", "identity_file"),
    ("identityfile", "identity_file"),
    ("proxyjump", "jump"),
    ("proxy_jump", "jump"),
    ("bastion", "jump"),
    ("sudo", "become: sudo"),
    ("timeout", "connect_timeout"),
    ("connecttimeout", "connect_timeout"),
    ("userknownhostsfile", "known_hosts"),
];

/// Reads `ssh:`.
pub fn ssh(node: &Node, reader: &mut InventoryReader<'_>) -> SshStatement {
    let mut ssh = SshStatement::default();
    for pair in reader.fields_in_words(node, "ssh", &KEYS, &WORDS) {
        let value = &pair.value;
        let place = &value.place;
        match pair.key.as_str() {
            "port" => {
                let port = reader.int(value, "the port", 1, 65535).and_then(|p| u16::try_from(p).ok());
                ssh.port = port.map(|port| Spanned::new(port, place));
            }
            "user" => {
                let user = reader.word(value, "user", "_.@+-").map(str::to_owned);
                ssh.user = user.map(|user| Spanned::new(user, place));
            }
            "become" if matches!(value.value, Value::Bool(_)) => {
                let help = if value.value == Value::Bool(true) { "write `sudo`" } else { "write `'no'`" };
                reader.wrong_help("wrong-type", place, "`become` is not a boolean", help);
            }
            "become" => match (&value.value, reader.line(value, "`sudo` as become")) {
                (_, Some("sudo")) => ssh.become_root = Some(Spanned::new(BecomeMethod::Sudo, place)),
                (_, Some("no")) => ssh.become_root = Some(Spanned::new(BecomeMethod::No, place)),
                (Value::Str(other), _) => {
                    let message = format!("`{}` is not a supported way to become root", other.escape_debug());
                    reader.wrong_help("wrong-type", place, message, "write `sudo`, or `'no'`");
                }
                _ => {}
            },
            "identity_file" => {
                ssh.identity_file = reader.path(value, "identity_file").map(|path| Spanned::new(path, place));
            }
            "known_hosts" => {
                ssh.known_hosts = reader.path(value, "known_hosts").map(|path| Spanned::new(path, place));
            }
            "jump" => ssh.jump = jump(value, reader),
            "options" => ssh.options = options(value, reader),
            "connect_timeout" => {
                let timeout = reader.duration(value, "connect_timeout");
                ssh.connect_timeout = timeout.map(|timeout| Spanned::new(timeout, place));
            }
            _ => {}
        }
    }
    ssh
}

fn jump(node: &Node, reader: &mut InventoryReader<'_>) -> Option<Spanned<String>> {
    let text = reader.line(node, "jump")?;
    let hops_right =
        text.split(',').all(|hop| !hop.is_empty() && !hop.starts_with('-') && !hop.contains("@-"));
    if !hops_right {
        let message = format!("jump `{text}` has a hop that is empty or would be taken as an option");
        reader.wrong("injection", &node.place, message);
        return None;
    }
    let right = reader.is_word(text, &node.place, "jump", "_.@:,[]+-");
    right.then(|| Spanned::new(text.to_owned(), &node.place))
}

fn options(node: &Node, reader: &mut InventoryReader<'_>) -> Vec<(String, Spanned<String>)> {
    let mut options: Vec<(String, Spanned<String>)> = Vec::new();
    for pair in reader.map(node, "options of ssh_config by name") {
        if let Some(why) = refused(&pair.key) {
            let message = format!("ssh option `{}` is refused: {why}", pair.key);
            match pair.key.to_ascii_lowercase().as_str() {
                "proxycommand" => reader.wrong_help(
                    "ssh-option",
                    &pair.key_place,
                    message,
                    "to reach the host through another one, use `jump: bastion` beside `options`",
                ),
                _ => reader.wrong("ssh-option", &pair.key_place, message),
            }
            continue;
        }
        let Some(name) = OPTIONS.iter().find(|name| name.eq_ignore_ascii_case(&pair.key)) else {
            let message = format!(
                "ssh option `{}` is unknown or cannot be set by an inventory",
                pair.key.escape_debug()
            );
            let mut problem = Problem::new("ssh-option", message).at_place(&pair.key_place);
            problem.help = did_you_mean(&pair.key, OPTIONS);
            reader.problems.push(problem);
            continue;
        };
        if options.iter().any(|(known, _)| known == name) {
            reader.wrong("duplicate-key", &pair.key_place, format!("ssh option `{name}` is defined twice"));
            continue;
        }
        let value = match &pair.value.value {
            Value::Int(number) => number.to_string(),
            Value::Bool(true) => "yes".to_owned(),
            Value::Bool(false) => "no".to_owned(),
            _ => match reader.line(&pair.value, "the option") {
                Some(text) => text.to_owned(),
                None => continue,
            },
        };
        // It stands in front of the key in a known_hosts file.
        if *name == "HostKeyAlias" && !reader.is_word(&value, &pair.value.place, "HostKeyAlias", "_.:[]-") {
            continue;
        }
        options.push(((*name).to_owned(), Spanned::new(value, &pair.value.place)));
    }
    options
}
