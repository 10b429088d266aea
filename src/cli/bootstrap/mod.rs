//! `kvmfw bootstrap`: one host, without an inventory; prints the one to keep.

mod bridges;
mod first_look;
mod local;

use super::apply::{ApplyRequest, RolloutArgs, carry_out};
use super::{CliError, CliResult, Common, Format, console, exit, load, output, reach, runtime};
use crate::engine::{Budget, EngineSettings};
use crate::host_state::Observed;
use crate::inventory::{self, BOOTSTRAP, HostStanza, Project, SshTarget};
use crate::plan::{GenerationManifest, PlanOptions};
use crate::problem::did_you_mean;
use crate::report::Document;
use crate::resolve::{self, Desired};
use crate::ssh::Via;
use clap::Args;

/// Arguments of `bootstrap`.
#[derive(Debug, Args)]
pub(super) struct BootstrapArgs {
    /// Login: root@kvm1, admin@192.0.2.1:2222, root@[2001:db8::1]; with --local, the address at which other machines reach this host
    #[arg(value_name = "USER@HOST", required_unless_present = "local")]
    target: Option<String>,
    /// Configure the host on which this command runs, without SSH
    #[arg(long, conflicts_with = "host_key_fingerprint")]
    local: bool,
    /// With --local: commit if this machine can open a new connection to this host; no prompt
    #[arg(long, value_name = "USER@HOST", requires = "local")]
    confirm_from: Option<String>,
    /// Module for the host (repeatable)
    #[arg(short, long, value_name = "NAME", required = true)]
    module: Vec<String>,
    /// Value of a param, such as host-firewall.allow_tcp=22,16514 (repeatable)
    #[arg(long, value_name = "MODULE.PARAM=VALUE")]
    param: Vec<String>,
    /// Bridge of the host for $bridges (repeatable) [default: a prompt offers those on the host]
    #[arg(long, value_name = "NAME")]
    bridge: Vec<String>,
    /// The host's name in the inventory [default: HOST]
    #[arg(long)]
    name: Option<String>,
    /// Fingerprint of the expected host key: SHA256:…
    #[arg(long, value_name = "SHA256:…")]
    host_key_fingerprint: Option<String>,
    #[command(flatten)]
    files: reach::Files,
    #[command(flatten)]
    rollout: RolloutArgs,
}

impl BootstrapArgs {
    /// The host, for people.
    fn shown(&self) -> &str {
        self.target.as_deref().unwrap_or("this host")
    }

    /// How the host is reached.
    fn reach(&self) -> Result<SshTarget, CliError> {
        // They are for the machine that is logged in to.
        let files = (!self.local).then_some(&self.files);
        match &self.target {
            Some(target) => reach::parse(target, files, self.name.as_ref()),
            None => reach::here(self.name.as_ref()),
        }
    }

    /// The machine that confirms a local bootstrap.
    fn third(&self, common: &Common) -> Result<Option<Desired>, CliError> {
        let Some(text) = &self.confirm_from else { return Ok(None) };
        let reach = reach::parse(text, Some(&self.files), None)?;
        compile(&project(common, &HostStanza::default().yaml(&reach, &Default::default()))?).map(Some)
    }
}

pub(super) fn run(common: &Common, args: &BootstrapArgs) -> CliResult {
    let mut reach = args.reach()?;
    let wanted = wanted(args)?;
    let third = args.third(common)?;
    if args.local && third.is_none() {
        local::needs_terminal()?;
    }
    let bare = project(common, &HostStanza::default().yaml(&reach, &Default::default()))?;
    known(&wanted, &bare)?;
    // What is wrong with the words is said before anybody is asked or connected to.
    let early = HostStanza { bridges: ["br0".to_owned()].into(), ..wanted.clone() };
    compile(&project(common, &early.yaml(&reach, &bare.modules))?)?;

    let via = if args.local { Via::Local } else { Via::Ssh };
    let settings = EngineSettings { via, ..runtime::settings(common, BOOTSTRAP) };
    let base = compile(&bare)?;
    let (looked, _) =
        runtime::engine(common, settings, None, |engine| first_look::look(common, args, engine, base))?;
    let observed = match looked? {
        Ok(observed) => observed,
        Err(outcome) => {
            let document = Document::of_outcomes(&[outcome]);
            let code = exit::of(&document, exit::DONE);
            return output::show(common, ("bootstrap", args.rollout.diffs), None, &document, code);
        }
    };
    let observed = observed.as_ref();
    let mut stanza = kept(observed);
    let before = stanza.bridges.clone();
    stanza.add(wanted);
    stanza.bridges.extend(bridges::propose(common, args, observed, &stanza, &bare, &before)?);

    let third = third.map(|third| third.connection);
    if args.local && args.target.is_none() {
        local::refine(&mut reach, observed.facts.ssh.as_ref(), third.as_ref());
    }
    let yaml = stanza.yaml(&reach, &bare.modules);
    let mut desired = compile(&project(common, &yaml)?)?;
    desired.stanza = Some(stanza);
    let local = match (args.local, third) {
        (false, _) => None,
        (true, None) => Some(local::by_operator(observed.facts.ssh.as_ref())),
        (true, Some(third)) => Some(local::by_third(common, third, &desired.connection)?),
    };
    let all_flows = common.verbose > 0;
    let options = PlanOptions { accept: args.rollout.accept.set(), all_flows, ..PlanOptions::default() };
    let hosts = vec![(desired, options)];
    let todo = ApplyRequest { hosts, saved: None, left: Vec::new(), max_fail: Budget::Hosts(1), local };
    let code = carry_out(common, &args.rollout, "bootstrap", todo)?;
    if code == exit::DONE {
        console::notice("\nSave this as inventories/prod.yaml (the next plan will show no changes):\n");
        let text = format!("{MODELINE}{yaml}");
        match common.format {
            Format::Human => console::print(&text),
            _ => console::notice(&text),
        }
    }
    Ok(code)
}

/// Where an editor finds the schema that `kvmfw generate schema -o schema` writes.
const MODELINE: &str = "# yaml-language-server: $schema=../schema/inventory.json\n";

/// What was asked for in words.
fn wanted(args: &BootstrapArgs) -> Result<HostStanza, CliError> {
    let mut stanza = HostStanza { bridges: args.bridge.iter().cloned().collect(), ..HostStanza::default() };
    for module in args.module.iter().flat_map(|m| m.split(',')).map(str::trim) {
        if !stanza.modules.iter().any(|m| m == module) {
            stanza.modules.push(module.to_owned());
        }
    }
    for param in &args.param {
        let split = param.split_once('=').and_then(|(path, value)| Some((path.split_once('.')?, value)));
        let Some(((module, name), value)) = split else {
            return Err(CliError::bad_input(format!(
                "--param `{}`: write MODULE.PARAM=VALUE, for example host-firewall.allow_tcp=22,16514",
                param.escape_debug()
            )));
        };
        stanza.params.entry(module.to_owned()).or_default().insert(name.to_owned(), value.to_owned());
    }
    Ok(stanza)
}

/// Whether there are all the modules that were asked for.
fn known(wanted: &HostStanza, project: &Project) -> Result<(), CliError> {
    let Some(module) = wanted.modules.iter().find(|module| !project.modules.contains_key(*module)) else {
        return Ok(());
    };
    let error = CliError::bad_input(format!("unknown module `{}`", module.escape_debug()));
    Err(match did_you_mean(module, project.modules.keys().map(String::as_str)) {
        Some(hint) => error.hint(hint),
        None => error,
    })
}

fn project(common: &Common, yaml: &str) -> Result<Project, CliError> {
    let locate = load::locate(common.dir.clone(), None);
    inventory::load_text(&locate, BOOTSTRAP, yaml).map_err(CliError::from)
}

fn compile(project: &Project) -> Result<Desired, CliError> {
    let names: Vec<String> = project.hosts.iter().map(|h| h.name.clone()).collect();
    let all = resolve::compile(project, &names).map_err(|p| CliError::problems(p, &project.sources))?;
    all.into_iter().next().ok_or_else(|| CliError::internal("internal error: the inventory has no host"))
}

/// What earlier bootstraps asked for, as the host remembers it.
fn kept(observed: &Observed) -> HostStanza {
    let record = observed.state.record.as_deref().and_then(|text| GenerationManifest::parse(text).ok());
    record.and_then(|record| record.stanza).unwrap_or_default()
}
