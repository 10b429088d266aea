//! `kvmfw explain`: why guests are unreachable, what the rules do to a packet, what a log line means.

use super::{CliError, CliResult, Common, Format, console, exit, load, reach, runtime};
use crate::expectation::{PacketDestination, PacketEndpoint, PacketQuery, PacketTransport};
use crate::explain::{
    ExplainContext, HostExplanation, bridges, mermaid, packet_reports, read_log, remedies, rp_filter, svg,
};
use crate::host;
use crate::host_state::{ObserveError, Observed, ProbeSections, observe};
use crate::inventory::{self, BOOTSTRAP, HostStanza, ProjectLocation};
use crate::plan;
use crate::report::{explanation_text, printable};
use crate::resolve::{self, Desired};
use clap::{Args, ValueEnum};
use std::io::{IsTerminal, Read};

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// Host: a selection as with --limit, or USER@HOST for a host outside the inventory
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Source of the packet: a port (vnet0), a guest, a device, an address, or host
    #[arg(long, value_name = "WHERE", requires = "to")]
    from: Option<String>,
    /// Destination of the packet: 192.168.1.1:53/udp, [fd00::1]:80, vnet1, host:22
    #[arg(long, value_name = "WHERE")]
    to: Option<String>,
    /// Device on which a routed packet arrives
    #[arg(long = "in", value_name = "DEVICE", requires = "to")]
    device: Option<String>,
    /// Only this bridge; with --to, the bridge that the packet crosses
    #[arg(long, value_name = "NAME")]
    bridge: Option<String>,
    /// The packet belongs to an established connection
    #[arg(long, requires = "to")]
    established: bool,
    /// Test the packet: exit with 2 if its verdict is another one
    #[arg(long, value_enum, value_name = "VERDICT", requires = "to")]
    expect: Option<ExpectedVerdict>,
    /// The live state of the host [default]
    #[arg(long, conflicts_with = "desired")]
    live: bool,
    /// The state that the inventory describes
    #[arg(long)]
    desired: bool,
    /// Group kernel log lines from a file, from stdin (-), or from the host's journal
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "", conflicts_with = "to")]
    log: Option<String>,
    #[command(flatten)]
    files: reach::Files,
}

/// What a packet is expected to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ExpectedVerdict {
    Passes,
    Blocked,
}

impl ExpectedVerdict {
    /// Why the packets of a host do not meet it. A verdict that is unknown meets nothing.
    fn unmet(self, found: &HostExplanation) -> Option<String> {
        let (wanted, words) = match self {
            Self::Passes => ("passes", "to pass"),
            Self::Blocked => ("dropped", "to be blocked"),
        };
        let verdict = found.packets.iter().map(|packet| &packet.verdict).find(|v| v.verdict != wanted)?;
        let by =
            verdict.by.as_ref().map_or_else(String::new, |by| format!(" by {} `{}`", by.name(), by.text));
        let because = verdict.because.as_ref().map_or_else(String::new, |because| format!(": {because}"));
        let is = match verdict.verdict {
            "passes" => "it passes",
            "dropped" => "it is blocked",
            _ => "its verdict is unknown",
        };
        Some(format!("{}: the packet was expected {words}, but {is}{by}{because}", found.name))
    }
}

/// What one host answered, with the lines of its kernel's log.
type Answer = Result<Box<(Observed, String)>, ObserveError>;

pub(super) fn run(common: &Common, args: &ExplainArgs) -> CliResult {
    if matches!(common.format, Format::Svg | Format::Mermaid) && (args.to.is_some() || args.log.is_some()) {
        return Err(CliError::bad_input("--format svg and mermaid draw a host").hint("remove --to and --log"));
    }
    let question = args.question()?;
    let log = args.log_text()?;
    let Some(host) = args.host.as_deref().or(common.limit.as_deref()) else {
        let Some(text) = log else {
            return Err(CliError::bad_input(
                "no host given: add --host NAME or --host USER@HOST; only --log FILE works without a host",
            ));
        };
        let found = HostExplanation {
            state: "live",
            log: Some(read_log(&text, None, None)),
            ..HostExplanation::default()
        };
        show(common, &[found]);
        return Ok(exit::DONE);
    };
    let (hosts, known) = hosts(common, host, &args.files, None)?;
    if args.desired && !known {
        return Err(CliError::bad_input("--desired needs a host of the inventory"));
    }
    let journal = args.log.as_deref() == Some("");
    // What is desired is asked for where it is looked at, and in a log, which says what it would change.
    let wanted = known && (args.desired || args.log.is_some());
    let mut failed = Vec::new();
    let mut found = Vec::new();
    for desired in hosts {
        match ask(common, &desired, wanted, journal, question.as_ref())? {
            Ok(answer) => {
                let (observed, journal) = *answer;
                let text = log.as_deref().unwrap_or(&journal);
                let look = Look { args, question: question.as_ref(), text, wanted };
                let explanation = look.explain(&desired, &observed)?;
                let unmet = args.expect.and_then(|expected| expected.unmet(&explanation));
                failed.extend(unmet.map(|text| CliError::outcome(exit::CHANGES, printable(&text))));
                found.push(explanation);
            }
            Err(error) => failed.push(error),
        }
    }
    if !found.is_empty() {
        show(common, &found);
    }
    CliError::of_hosts(failed).map_or(Ok(exit::DONE), Err)
}

/// What a host is looked at for.
struct Look<'a> {
    args: &'a ExplainArgs,
    question: Option<&'a PacketQuery>,
    text: &'a str,
    wanted: bool,
}

impl Look<'_> {
    fn explain(&self, desired: &Desired, observed: &Observed) -> Result<HostExplanation, CliError> {
        let live = ExplainContext::new(&desired.host, observed, None);
        let will_be = ExplainContext::new(&desired.host, observed, Some(desired));
        let scene = if self.args.desired { &will_be } else { &live };
        let mut found = HostExplanation {
            name: scene.host.clone(),
            state: scene.state(),
            other_tables: scene.other_tables(),
            ..HostExplanation::default()
        };
        let mut is_blocked = false;
        if self.args.log.is_some() {
            let then = self.wanted.then_some(&will_be);
            found.log = Some(read_log(self.text, Some(&live), then));
        } else if let Some(question) = self.question {
            found.packets = packet_reports(scene, question).map_err(CliError::bad_input)?;
            let bridged = |story: &&crate::explain::PacketReport| story.route.bridge.is_some();
            is_blocked = found
                .packets
                .iter()
                .filter(bridged)
                .any(|story| story.verdict.verdict == "dropped" && story.verdict.by.is_some());
        } else {
            found.bridges = bridges(scene, self.args.bridge.as_deref());
            if let (true, Some(name)) = (found.bridges.is_empty(), &self.args.bridge) {
                return Err(CliError::bad_input(format!(
                    "{} has no bridge {}",
                    scene.host,
                    name.escape_debug()
                )));
            }
            is_blocked = found
                .bridges
                .iter()
                .flat_map(|bridge| &bridge.families)
                .any(|family| family.blocked.is_some());
        }
        if is_blocked {
            found.remedies = remedies(scene);
        }
        Ok(found)
    }
}

impl ExplainArgs {
    fn question(&self) -> Result<Option<PacketQuery>, CliError> {
        let bad = |error: String| CliError::bad_input(error);
        let Some(to) = &self.to else { return Ok(None) };
        let PacketDestination { endpoint: to, port, transport } =
            PacketDestination::parse(to).map_err(bad)?;
        let transport = transport.unwrap_or(PacketTransport::Tcp);
        let from = self.from.as_deref().map(PacketEndpoint::parse).transpose().map_err(bad)?;
        if from.is_none() && self.device.is_none() && self.bridge.is_none() {
            return Err(bad("no source given: add --from, --in or --bridge".to_owned()));
        }
        if let Some(Ok(PacketEndpoint::Address(_) | PacketEndpoint::Host) | Err(_)) =
            self.device.as_deref().map(PacketEndpoint::parse)
        {
            return Err(bad("--in takes the name of a device".to_owned()));
        }
        let (device, bridge) = (self.device.clone(), self.bridge.clone());
        Ok(Some(PacketQuery {
            from,
            to,
            source: None,
            port,
            transport,
            device,
            bridge,
            established: self.established,
        }))
    }

    /// The lines of a file or of stdin; those of the host's journal come with its answer.
    fn log_text(&self) -> Result<Option<String>, CliError> {
        let Some(path) = self.log.as_deref().filter(|path| !path.is_empty()) else { return Ok(None) };
        let mut bytes = Vec::new();
        let read = match path {
            "-" => std::io::stdin().read_to_end(&mut bytes).map(|_| ()),
            path => std::fs::read(path).map(|read| bytes = read),
        };
        match read {
            Ok(()) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) => Err(CliError::bad_input(format!("cannot read {path}: {error}"))),
        }
    }
}

/// The hosts, and whether an inventory knows them; `files` and `name` are for one that none knows.
pub(super) fn hosts(
    common: &Common,
    host: &str,
    files: &reach::Files,
    name: Option<&String>,
) -> Result<(Vec<Desired>, bool), CliError> {
    if host.contains('@') && !host.starts_with('@') {
        let reach = reach::parse(host, Some(files), name)?;
        let home = std::env::var_os("HOME").map(std::path::PathBuf::from);
        let locate = ProjectLocation { dir: common.dir.clone(), inventory: None, home };
        let yaml = HostStanza::default().yaml(&reach, &Default::default());
        let project = inventory::load_text(&locate, BOOTSTRAP, &yaml).map_err(CliError::from)?;
        let names: Vec<String> = project.hosts.iter().map(|h| h.name.clone()).collect();
        let desired =
            resolve::compile(&project, &names).map_err(|p| CliError::problems(p, &project.sources))?;
        return Ok((desired, false));
    }
    if let Some(flag) = files.flag().or(name.map(|_| "--name")) {
        return Err(CliError::bad_input(format!("{flag} is only for USER@HOST"))
            .hint(format!("set it for `{}` in the inventory", host.escape_debug())));
    }
    let project = load::project(common)?;
    let names =
        inventory::select(&project, host).map_err(|p| CliError::problems(vec![p], &project.sources))?;
    let desired = resolve::compile(&project, &names).map_err(|p| CliError::problems(p, &project.sources))?;
    Ok((desired, true))
}

/// Asks one host. The inner error is that of a host that gives no answer.
fn ask(
    common: &Common,
    desired: &Desired,
    wanted: bool,
    journal: bool,
    question: Option<&PacketQuery>,
) -> Result<Result<Box<(Observed, String)>, CliError>, CliError> {
    let (want, mut keys) = if wanted { plan::probe_request(desired) } else { Default::default() };
    for device in
        question.and_then(|question| question.device.as_deref()).into_iter().flat_map(|d| ["all", d])
    {
        keys.push_str(&rp_filter(device));
        keys.push('\n');
    }
    let sets = if wanted { plan::set_headers(desired) } else { String::new() };
    ask_about(common, "explain", desired, (want, keys, sets), journal)
}

/// The same with what is asked for: own text wanted of each family, sysctl keys, and sets.
pub(super) fn ask_about(
    common: &Common,
    run: &str,
    desired: &Desired,
    (want, keys, sets): ([String; 2], String, String),
    journal: bool,
) -> Result<Result<Box<(Observed, String)>, CliError>, CliError> {
    let hosts = vec![(desired.connection.clone(), desired.host.clone())];
    let document = move |nonce: &host::Nonce| {
        host::explain(
            nonce,
            &host::Question {
                want: [&want[0], &want[1]],
                keys: &keys,
                sets: &sets,
                vlans: false,
                jump_hosts: "",
                boot_files: true,
                packet_settings: true,
                guests: true,
            },
            journal,
        )
    };
    let read = |sections: &ProbeSections<'_>| -> Option<Answer> {
        let observed = observe(sections, "");
        if matches!(observed, Err(ObserveError::Incomplete(_))) {
            // Who has all that was printed says what that was.
            return None;
        }
        let log = sections.get(crate::protocol::LOG).unwrap_or("").to_owned();
        Some(observed.map(|observed| Box::new((observed, log))))
    };
    let settings = runtime::settings(common, run);
    let (mut answers, _) = runtime::engine(common, settings, None, |engine| async move {
        engine.request(hosts, document, read).await
    })?;
    let Some((host, answer)) = answers.pop() else {
        return Err(CliError::internal("internal error: the host has no answer"));
    };
    let (code, message) = match answer {
        Ok(Ok(answer)) => return Ok(Ok(answer)),
        Ok(Err(ObserveError::Refused(_, message))) => (exit::LEFT_ALONE, message),
        Ok(Err(error @ ObserveError::NoPrivilege)) => (exit::LEFT_ALONE, error.to_string()),
        Ok(Err(error)) => (exit::UNREACHABLE, error.to_string()),
        Err(outcome) => (exit::of_outcome(&outcome), outcome.message.unwrap_or_default()),
    };
    let message = crate::characters::shortened(message);
    Ok(Err(CliError::outcome(code, format!("{host}: {}", crate::report::printable(&message)))))
}

fn show(common: &Common, found: &[HostExplanation]) {
    match common.format {
        Format::Json => {
            let document = serde_json::json!({ "version": crate::report::Document::VERSION, "hosts": found });
            console::print(&format!("{}\n", serde_json::to_string_pretty(&document).unwrap_or_default()));
        }
        Format::Svg => found.iter().for_each(|one| console::print(&svg(&one.name, one.state, &one.bridges))),
        Format::Mermaid => {
            found.iter().for_each(|one| console::print(&mermaid(&one.name, one.state, &one.bridges)))
        }
        Format::Human | Format::Jsonl | Format::Markdown => {
            let style = console::style(common, std::io::stdout().is_terminal());
            for one in found {
                console::print(&explanation_text(one, style));
            }
        }
    }
}
