//! `kvmfw explain`: why guests are dark, what becomes of a packet, what a log line means.

use super::{Code, Common, Format, exit, reach, setup};
use crate::desired::{self, Desired};
use crate::explain::{
    ExplainContext, ExplainProbe, HostExplanation, PacketEndpoint, PacketQuery, bridges, destination,
    mermaid, packet_reports, read_log, remedies, rp_filter, svg,
};
use crate::inventory::{self, BOOTSTRAP, HostStanza, ProjectLocation};
use crate::observe::{ObserveError, Observed, ProbeSections, observe};
use crate::plan;
use crate::remote;
use crate::report::explanation_text;
use clap::Args;
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

/// What one host answered.
type Answer = Result<Box<(Observed, ExplainProbe)>, ObserveError>;

pub(super) fn run(common: &Common, args: &ExplainArgs) -> Code {
    if matches!(common.format, Format::Svg | Format::Mermaid) && (args.to.is_some() || args.log.is_some()) {
        setup::complain("--format svg and mermaid draw a host; remove --to and --log");
        return Err(exit::BAD_INPUT);
    }
    let question = args.question()?;
    let log = args.log_text()?;
    let Some(host) = args.host.as_deref().or(common.limit.as_deref()) else {
        let Some(text) = log else {
            setup::complain(
                "no host given: add --host NAME or --host USER@HOST; only --log FILE works without a host",
            );
            return Err(exit::BAD_INPUT);
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
        setup::complain("--desired needs a host of the inventory");
        return Err(exit::BAD_INPUT);
    }
    let journal = args.log.as_deref() == Some("");
    // What is desired is asked for where it is looked at, and in a log, which says what it would change.
    let wanted = known && (args.desired || args.log.is_some());
    let mut code = exit::DONE;
    let mut found = Vec::new();
    for desired in hosts {
        match ask(common, &desired, wanted, journal, question.as_ref())? {
            Ok(answer) => {
                let (observed, extra) = *answer;
                let text = log.as_deref().unwrap_or(&extra.log);
                let look = Look { args, question: question.as_ref(), text, wanted };
                found.push(look.explain(&desired, &observed, &extra)?);
            }
            Err(code_of_host) => code = exit::worse(code, code_of_host),
        }
    }
    if !found.is_empty() {
        show(common, &found);
    }
    Ok(code)
}

/// What a host is looked at for.
struct Look<'a> {
    args: &'a ExplainArgs,
    question: Option<&'a PacketQuery>,
    text: &'a str,
    wanted: bool,
}

impl Look<'_> {
    fn explain(
        &self,
        desired: &Desired,
        observed: &Observed,
        extra: &ExplainProbe,
    ) -> Result<HostExplanation, u8> {
        let live = ExplainContext::new(&desired.host, observed, None, extra);
        let will_be = ExplainContext::new(&desired.host, observed, Some(desired), extra);
        let scene = if self.args.desired { &will_be } else { &live };
        let mut found = HostExplanation {
            name: scene.host.clone(),
            state: scene.state(),
            other_tables: scene.other_tables(),
            ..HostExplanation::default()
        };
        let mut dark = false;
        if self.args.log.is_some() {
            let then = self.wanted.then_some(&will_be);
            found.log = Some(read_log(self.text, Some(&live), then));
        } else if let Some(question) = self.question {
            found.packets = packet_reports(scene, question).map_err(|error| {
                setup::complain(&error);
                exit::BAD_INPUT
            })?;
            let bridged = |story: &&crate::explain::PacketReport| story.route.bridge.is_some();
            dark = found
                .packets
                .iter()
                .filter(bridged)
                .any(|story| story.verdict.verdict == "dropped" && story.verdict.by.is_some());
        } else {
            found.bridges = bridges(scene, self.args.bridge.as_deref());
            if let (true, Some(name)) = (found.bridges.is_empty(), &self.args.bridge) {
                setup::complain(&format!("{} has no bridge {}", scene.host, name.escape_debug()));
                return Err(exit::BAD_INPUT);
            }
            dark = found
                .bridges
                .iter()
                .flat_map(|bridge| &bridge.families)
                .any(|family| family.blocked.is_some());
        }
        if dark {
            found.remedies = remedies(scene);
        }
        Ok(found)
    }
}

impl ExplainArgs {
    fn question(&self) -> Result<Option<PacketQuery>, u8> {
        let bad = |error: String| {
            setup::complain(&error);
            exit::BAD_INPUT
        };
        let Some(to) = &self.to else { return Ok(None) };
        let (to, port, transport) = destination(to).map_err(bad)?;
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
        Ok(Some(PacketQuery { from, to, port, transport, device, bridge, established: self.established }))
    }

    /// The lines of a file or of stdin; those of the host's journal come with its answer.
    fn log_text(&self) -> Result<Option<String>, u8> {
        let Some(path) = self.log.as_deref().filter(|path| !path.is_empty()) else { return Ok(None) };
        let mut bytes = Vec::new();
        let read = match path {
            "-" => std::io::stdin().read_to_end(&mut bytes).map(|_| ()),
            path => std::fs::read(path).map(|read| bytes = read),
        };
        match read {
            Ok(()) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) => {
                setup::complain(&format!("cannot read {path}: {error}"));
                Err(exit::BAD_INPUT)
            }
        }
    }
}

/// The hosts, and whether an inventory knows them; `files` and `name` are for one that none knows.
pub(super) fn hosts(
    common: &Common,
    host: &str,
    files: &reach::Files,
    name: Option<&String>,
) -> Result<(Vec<Desired>, bool), u8> {
    if host.contains('@') && !host.starts_with('@') {
        let reach = reach::parse(host, Some(files), name)?;
        let home = std::env::var_os("HOME").map(std::path::PathBuf::from);
        let locate = ProjectLocation { dir: common.dir.clone(), inventory: None, home };
        let yaml = HostStanza::default().yaml(&reach, &Default::default());
        let project = inventory::load_text(&locate, BOOTSTRAP, &yaml)
            .map_err(|p| setup::report(common, &p.list, &p.sources))?;
        let names: Vec<String> = project.hosts.iter().map(|h| h.name.clone()).collect();
        let desired =
            desired::compile(&project, &names).map_err(|p| setup::report(common, &p, &project.sources))?;
        return Ok((desired, false));
    }
    if let Some(flag) = files.flag().or(name.map(|_| "--name")) {
        setup::complain(&format!(
            "{flag} is only for USER@HOST; set it for `{}` in the inventory",
            host.escape_debug()
        ));
        return Err(exit::BAD_INPUT);
    }
    let project = setup::project(common)?;
    let names =
        inventory::select(&project, host).map_err(|p| setup::report(common, &[p], &project.sources))?;
    let desired =
        desired::compile(&project, &names).map_err(|p| setup::report(common, &p, &project.sources))?;
    Ok((desired, true))
}

/// Asks one host; the code of one that gives no answer, which was said.
fn ask(
    common: &Common,
    desired: &Desired,
    wanted: bool,
    journal: bool,
    question: Option<&PacketQuery>,
) -> Result<Result<Box<(Observed, ExplainProbe)>, u8>, u8> {
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
) -> Result<Result<Box<(Observed, ExplainProbe)>, u8>, u8> {
    let hosts = vec![(desired.connection.clone(), desired.host.clone())];
    let document = move |nonce: &remote::Nonce| {
        remote::explain(
            nonce,
            &remote::Question {
                want: [&want[0], &want[1]],
                keys: &keys,
                sets: &sets,
                vlans: false,
                jump_hosts: "",
                boot_files: true,
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
        Some(observed.map(|observed| Box::new((observed, ExplainProbe::read(sections)))))
    };
    let settings = setup::settings(common, run);
    let (mut answers, _) = setup::engine(common, settings, None, |engine| async move {
        engine.request(hosts, document, read).await
    })?;
    let Some((host, answer)) = answers.pop() else { return Err(exit::INTERNAL) };
    let (code, message) = match answer {
        Ok(Ok(answer)) => return Ok(Ok(answer)),
        Ok(Err(ObserveError::Refused(_, message))) => (exit::LEFT_ALONE, message),
        Ok(Err(error @ ObserveError::NoPrivilege)) => (exit::LEFT_ALONE, error.to_string()),
        Ok(Err(error)) => (exit::UNREACHABLE, error.to_string()),
        Err(outcome) => (exit::of_outcome(&outcome), outcome.message.unwrap_or_default()),
    };
    let message = crate::characters::shortened(message);
    setup::complain(&format!("{host}: {}", crate::report::printable(&message)));
    Ok(Err(code))
}

fn show(common: &Common, found: &[HostExplanation]) {
    match common.format {
        Format::Json => {
            let document = serde_json::json!({ "version": crate::report::Document::VERSION, "hosts": found });
            setup::print(&format!("{}\n", serde_json::to_string_pretty(&document).unwrap_or_default()));
        }
        Format::Svg => found.iter().for_each(|one| setup::print(&svg(&one.name, one.state, &one.bridges))),
        Format::Mermaid => {
            found.iter().for_each(|one| setup::print(&mermaid(&one.name, one.state, &one.bridges)))
        }
        Format::Human | Format::Jsonl | Format::Markdown => {
            let style = setup::style(common, std::io::stdout().is_terminal());
            for one in found {
                setup::print(&explanation_text(one, style));
            }
        }
    }
}
