//! `kvmfw bootstrap`: one host, without an inventory; prints the one to keep.

use super::apply::{RolloutArgs, Work, carry_out};
use super::{Code, Common, Format, exit, setup};
use crate::apply::{Budget, Engine, HostOutcome, Planned};
use crate::desired::{self, Desired};
use crate::inventory::{self, BOOTSTRAP, Locate, Project, Reach, Stanza};
use crate::observe::{Link, Observed};
use crate::plan::{Options, Record};
use crate::problem::did_you_mean;
use crate::report::{Document, plan_text, printable};
use crate::transport::host_key::{self, HostKey};
use clap::Args;
use std::path::PathBuf;

/// Arguments of `bootstrap`.
#[derive(Debug, Args)]
pub(super) struct BootstrapArgs {
    /// Whom to log in as and where: root@kvm1, admin@192.0.2.1:2222, root@[2001:db8::1]
    #[arg(value_name = "USER@HOST")]
    target: String,
    /// A module the host is to have; again for more
    #[arg(short, long, value_name = "NAME", required = true)]
    module: Vec<String>,
    /// A value for a param: host-firewall.allow_tcp=22,16514
    #[arg(long, value_name = "MODULE.PARAM=VALUE")]
    param: Vec<String>,
    /// A bridge of the host for $bridges; again for more [default: asks about those it finds]
    #[arg(long, value_name = "NAME")]
    bridge: Vec<String>,
    /// The host's name in the inventory [default: HOST]
    #[arg(long)]
    name: Option<String>,
    /// The host key that is right: SHA256:…
    #[arg(long, value_name = "SHA256:…")]
    host_key_fingerprint: Option<String>,
    /// The private key to log in with
    #[arg(long, value_name = "FILE")]
    identity_file: Option<PathBuf>,
    /// Where host keys are looked for and kept
    #[arg(long, value_name = "FILE")]
    known_hosts: Option<PathBuf>,
    #[command(flatten)]
    rollout: RolloutArgs,
}

pub(super) fn run(common: &Common, args: &BootstrapArgs) -> Code {
    let reach = reach(args)?;
    let wanted = wanted(args)?;
    let bare = project(common, &Stanza::default().yaml(&reach, &Default::default()))?;
    for module in &wanted.modules {
        if !bare.modules.contains_key(module) {
            let help = did_you_mean(module, bare.modules.keys().map(String::as_str));
            setup::complain(&format!(
                "there is no module `{}`{}",
                module.escape_debug(),
                help.map_or_else(String::new, |h| format!("; {h}"))
            ));
            return Err(exit::BAD_INPUT);
        }
    }
    // What is wrong with the words is said before anybody is asked or connected to.
    let early = Stanza { bridges: ["br0".to_owned()].into(), ..wanted.clone() };
    compile(common, &project(common, &early.yaml(&reach, &bare.modules))?)?;

    let settings = setup::settings(common, BOOTSTRAP);
    let base = compile(common, &bare)?;
    let (looked, _) = setup::engine(common, settings, |engine| look(common, args, engine, base))?;
    let planned = looked?;
    let Ok((_, observed)) = &planned.result else {
        let document = Document::of_plan(&[planned]);
        setup::show(common, &document, plan_text);
        return Ok(exit::of(&document, exit::DONE));
    };
    let mut stanza = kept(observed);
    let before = stanza.bridges.clone();
    stanza.add(wanted);
    stanza.bridges.extend(bridges(common, args, observed, &stanza, &bare, &before)?);

    let yaml = stanza.yaml(&reach, &bare.modules);
    let mut desired = compile(common, &project(common, &yaml)?)?;
    desired.stanza = Some(stanza);
    let options = Options { accept: args.rollout.accept.set(), ..Options::default() };
    let hosts = vec![(desired, options)];
    let todo = Work { hosts, expected: None, left: Vec::new(), max_fail: Budget::Hosts(1) };
    let code = carry_out(common, &args.rollout, todo)?;
    if code == exit::DONE {
        let text = format!("\nKeep this, for example as inventories/prod.yaml; its plan is empty:\n\n{yaml}");
        match common.format {
            Format::Human => setup::print(&text),
            _ => setup::complain(&text),
        }
    }
    Ok(code)
}

/// What was asked for in words.
fn wanted(args: &BootstrapArgs) -> Result<Stanza, u8> {
    let mut stanza = Stanza { bridges: args.bridge.iter().cloned().collect(), ..Stanza::default() };
    for module in args.module.iter().flat_map(|m| m.split(',')).map(str::trim) {
        if !stanza.modules.iter().any(|m| m == module) {
            stanza.modules.push(module.to_owned());
        }
    }
    for param in &args.param {
        let split = param.split_once('=').and_then(|(path, value)| Some((path.split_once('.')?, value)));
        let Some(((module, name), value)) = split else {
            setup::complain(&format!(
                "--param `{}`: write it as MODULE.PARAM=VALUE, host-firewall.allow_tcp=22,16514",
                param.escape_debug()
            ));
            return Err(exit::BAD_INPUT);
        };
        stanza.params.entry(module.to_owned()).or_default().insert(name.to_owned(), value.to_owned());
    }
    Ok(stanza)
}

/// `USER@HOST:PORT` taken apart.
fn reach(args: &BootstrapArgs) -> Result<Reach, u8> {
    let (user, place) = match args.target.rsplit_once('@') {
        Some((user, place)) => (Some(user.to_owned()), place),
        None => (None, args.target.as_str()),
    };
    let (address, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => (address, rest.strip_prefix(':')),
        None => match place.split_once(':') {
            Some((address, port)) if !port.contains(':') => (address, Some(port)),
            _ => (place, None),
        },
    };
    let Ok(port) = port.map(str::parse::<u16>).transpose() else {
        setup::complain(&format!("`{}`: that is no port", args.target.escape_debug()));
        return Err(exit::BAD_INPUT);
    };
    let absolute = |path: &PathBuf| {
        std::path::absolute(path).unwrap_or_else(|_| path.clone()).to_string_lossy().into_owned()
    };
    let mut files = Vec::new();
    files.extend(args.identity_file.iter().map(|f| ("identity_file", absolute(f))));
    files.extend(args.known_hosts.iter().map(|f| ("known_hosts", absolute(f))));
    let name = args.name.clone().unwrap_or_else(|| match address.contains(':') {
        // Colons have no place in a host's name.
        true => format!("host-{}", address.replace(':', "-")),
        false => address.to_owned(),
    });
    Ok(Reach { name, address: address.to_owned(), user, port, files })
}

fn project(common: &Common, yaml: &str) -> Result<Project, u8> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let locate = Locate { dir: common.dir.clone(), inventory: None, home };
    inventory::load_text(&locate, BOOTSTRAP, yaml).map_err(|p| setup::report(common, &p.list, &p.sources))
}

fn compile(common: &Common, project: &Project) -> Result<Desired, u8> {
    let names: Vec<String> = project.hosts.iter().map(|h| h.name.clone()).collect();
    let all = desired::compile(project, &names).map_err(|p| setup::report(common, &p, &project.sources))?;
    all.into_iter().next().ok_or(exit::INTERNAL)
}

/// Looks at the host; where ssh does not know its key, that comes first.
async fn look(
    common: &Common,
    args: &BootstrapArgs,
    mut engine: Engine,
    desired: Desired,
) -> Result<Planned, u8> {
    let fail = |error: crate::transport::TransportError| {
        setup::complain(&format!("{}: {error}", args.target));
        exit::UNREACHABLE
    };
    let mut key = None;
    if let Some(right) = &args.host_key_fingerprint {
        let found = host_key::fetch(&desired.connection).await.map_err(fail)?;
        if found.fingerprint != *right {
            setup::complain(&format!(
                "{}: the host key is {} {}, not {right}; nothing was done",
                args.target, found.kind, found.fingerprint
            ));
            return Err(exit::LEFT_ALONE);
        }
        key = Some(found);
    }
    let planned = once(&mut engine, &desired).await?;
    if !planned.result.as_ref().err().is_some_and(unknown_key) {
        return Ok(planned);
    }
    let key = match key {
        Some(key) => key,
        None => {
            let found = host_key::fetch(&desired.connection).await.map_err(fail)?;
            engine.drained().await;
            tokio::task::block_in_place(|| trust(common, args, &found))?;
            found
        }
    };
    let file = host_key::remember(&desired.connection, &key).await.map_err(fail)?;
    if !common.quiet {
        setup::complain(&format!("The key of {} is in {} now.", args.target, file.display()));
    }
    once(&mut engine, &desired).await
}

async fn once(engine: &mut Engine, desired: &Desired) -> Result<Planned, u8> {
    let planned = engine.plan(vec![(desired.clone(), Options::default())], false).await;
    planned.into_iter().next().ok_or(exit::INTERNAL)
}

fn unknown_key(outcome: &HostOutcome) -> bool {
    outcome.message.as_deref().is_some_and(host_key::is_unknown)
}

/// Only a person, or a fingerprint from one, can say that a key is right; `--yes` cannot.
fn trust(common: &Common, args: &BootstrapArgs, key: &HostKey) -> Code {
    let what = format!("{}: its host key is not known yet: {} {}", args.target, key.kind, key.fingerprint);
    if common.yes {
        setup::complain(&format!(
            "{what}\nIf that is the right one, say so: --host-key-fingerprint {}",
            key.fingerprint
        ));
        return Err(exit::LEFT_ALONE);
    }
    setup::complain(&what);
    setup::ask(common, "Is that the right one?")
}

/// What earlier bootstraps asked for, as the host remembers it.
fn kept(observed: &Observed) -> Stanza {
    let record = observed.state.record.as_deref().and_then(|text| Record::parse(text).ok());
    record.and_then(|record| record.stanza).unwrap_or_default()
}

/// The bridges for `$bridges`: those that were named, else those on the host, after a question.
fn bridges(
    common: &Common,
    args: &BootstrapArgs,
    observed: &Observed,
    stanza: &Stanza,
    project: &Project,
    before: &std::collections::BTreeSet<String>,
) -> Result<Vec<String>, u8> {
    let all: Vec<&Link> = observed.links.bridges().collect();
    if let Some(none) = args.bridge.iter().find(|name| !all.iter().any(|link| link.name == **name)) {
        let names: Vec<&str> = all.iter().map(|link| link.name.as_str()).collect();
        setup::complain(&format!(
            "the host has no bridge `{}`; it has: {}",
            none.escape_debug(),
            if names.is_empty() { "none".to_owned() } else { printable(&names.join(", ")) }
        ));
        return Err(exit::BAD_INPUT);
    }
    let asks = stanza.modules.iter().any(|m| project.modules.get(m).is_some_and(|m| m.uses_bridges));
    if !asks || !args.bridge.is_empty() {
        return Ok(Vec::new());
    }
    let found: Vec<&Link> =
        all.into_iter().filter(|link| !made_by_others(&link.name) && !before.contains(&link.name)).collect();
    if found.is_empty() {
        if before.is_empty() {
            setup::complain(
                "no bridge was found for $bridges; name one with --bridge, or leave that module out",
            );
            return Err(exit::BAD_INPUT);
        }
        return Ok(Vec::new());
    }
    let shown: Vec<String> = found
        .iter()
        .map(|link| {
            let ports: Vec<&str> = observed.links.ports(&link.name).map(|p| p.name.as_str()).collect();
            printable(&format!("{} ({})", link.name, ports.join(" ")))
        })
        .collect();
    setup::complain(&format!("Bridges on the host: {}", shown.join(", ")));
    setup::ask(common, "Use them for $bridges?")?;
    Ok(found.into_iter().map(|link| link.name.clone()).collect())
}

/// Bridges of software that looks after them itself.
fn made_by_others(name: &str) -> bool {
    let prefixes = ["docker", "virbr", "lxcbr", "lxdbr", "cni", "podman", "fwbr", "qbr", "brq", "kube"];
    let network = name
        .strip_prefix("br-")
        .is_some_and(|id| id.len() == 12 && id.chars().all(|c| c.is_ascii_hexdigit()));
    network || prefixes.iter().any(|prefix| name.starts_with(prefix))
}
