//! What the screen shows while a run goes on, as text: who is in flight, at which step, and how long
//! until a guard rolls back. Pure; drawing it is for the progress display.

use super::printable;
use crate::engine::{EngineEvent, HostOutcome};
use std::time::{Duration, Instant};

/// The state of a run as far as events have told it.
#[derive(Debug, Default)]
pub struct Board {
    /// What is being done with the hosts.
    pub what: &'static str,
    /// How many hosts are done with.
    pub done: usize,
    /// Of how many.
    pub of: usize,
    failed: usize,
    /// How many failures stop new hosts; only while hosts are changed.
    max_fail: Option<usize>,
    /// The batch that has begun, and how many there are.
    batch: Option<(usize, usize)>,
    /// In the order in which they started, so that who hangs is on top.
    in_flight: Vec<Flight>,
}

#[derive(Debug)]
struct Flight {
    host: String,
    step: &'static str,
    since: Instant,
    /// When its guard rolls back by itself.
    guard: Option<Instant>,
}

/// A name keeps so much, however narrow it is.
const NAME: usize = 12;
/// The widest column of names.
const COLUMN: usize = 36;
/// The widest the bar gets, and the narrowest.
const BAR: (usize, usize) = (16, 4);

impl Board {
    /// Takes an event into account.
    pub fn hear(&mut self, event: &EngineEvent, now: Instant) {
        match event {
            EngineEvent::Observing(of) => *self = Self { what: "probing", of: *of, ..Self::default() },
            EngineEvent::Applying { hosts, max_fail } => {
                *self = Self { what: "applying", of: *hosts, max_fail: Some(*max_fail), ..Self::default() };
            }
            EngineEvent::Batch { number, of } => self.batch = Some((*number, *of)),
            EngineEvent::Step(host, step, guard) => self.step(host, step, guard.map(|left| now + left), now),
            EngineEvent::Observed(host, _) => self.land(host),
            EngineEvent::Done(HostOutcome { host, status, .. }) => {
                self.failed += usize::from(status.is_failure());
                self.land(host);
            }
            EngineEvent::Planned(_)
            | EngineEvent::Note(_)
            | EngineEvent::Detail(_)
            | EngineEvent::Drain(_) => {}
        }
    }

    fn step(&mut self, host: &str, step: &'static str, guard: Option<Instant>, now: Instant) {
        match self.in_flight.iter_mut().find(|flight| flight.host == host) {
            Some(flight) => (flight.step, flight.guard) = (step, guard),
            None => self.in_flight.push(Flight { host: host.to_owned(), step, since: now, guard }),
        }
    }

    fn land(&mut self, host: &str) {
        self.in_flight.retain(|flight| flight.host != host);
        self.done += 1;
    }

    /// What stands beside the bar: batch and failures, where hosts are changed.
    pub fn summary(&self) -> String {
        let batch = self.batch.map_or_else(String::new, |(number, of)| format!("  batch {number}/{of}"));
        let failed = self.max_fail.map_or_else(String::new, |max| format!("  failed {}/{max}", self.failed));
        format!("{batch}{failed}")
    }

    /// What stands around the bar: how wide that may be, and what comes after it.
    pub fn head(&self, columns: usize, left: Option<Duration>) -> (usize, String) {
        // When all that are left are in flight, their own lines say more than a mean of those before: it would be
        // nothing for as long as one hangs.
        let more = self.done + self.in_flight.len() < self.of;
        let left = left
            .filter(|_| self.done > 0 && more)
            .map_or_else(String::new, |left| format!("  eta {}", seconds(left)));
        let text = format!(" {}/{} hosts{}{left}", self.done, self.of, self.summary());
        let before = 2 + self.what.chars().count() + 1;
        let bar = columns.saturating_sub(before + text.chars().count()).clamp(BAR.1, BAR.0);
        (bar, cut(&text, columns.saturating_sub(before + bar)))
    }

    /// A line for each host in flight, at most so many and so wide; the last one counts the others.
    pub fn lines(&self, rows: usize, columns: usize, now: Instant) -> Vec<String> {
        let all = self.in_flight.len();
        let shown = if all <= rows { all } else { rows.saturating_sub(1) };
        let flights = &self.in_flight[..shown];
        let tails: Vec<String> = flights.iter().map(|flight| flight.tail(now)).collect();
        let widest =
            |texts: &mut dyn Iterator<Item = &str>| texts.map(|t| t.chars().count()).max().unwrap_or(0);
        // Names make a column, and a long one gives way to the steps and the guards. Where there is room for it, it
        // is there in full and moves its own line only: a column as wide as that would be a desert to all others.
        let room = columns.saturating_sub(2 + widest(&mut tails.iter().map(String::as_str)));
        let names = widest(&mut flights.iter().map(|flight| flight.host.as_str()));
        let width = names.min(room.max(NAME)).min(columns / 2).min(COLUMN);
        let line = |(flight, tail): (&Flight, &String)| {
            let room = columns.saturating_sub(2 + tail.chars().count()).max(width);
            let name = cut(&printable(&flight.host), room);
            cut(&format!("  {name:<width$}{tail}"), columns)
        };
        let mut lines: Vec<String> = flights.iter().zip(&tails).map(line).collect();
        if shown < all && rows > 0 {
            lines.push(format!("  … and {} more", all - shown));
        }
        lines
    }

    /// The sign of life where there is no terminal.
    pub fn heartbeat(&self) -> String {
        let hosts: Vec<&str> = self.in_flight.iter().map(|flight| flight.host.as_str()).collect();
        let flying = match hosts.len() {
            0 => String::new(),
            _ => format!("; in flight: {}", printable(&super::fold_names(&hosts))),
        };
        format!("… {} of {} hosts{}{flying}", self.done, self.of, self.summary())
    }
}

impl Flight {
    /// What stands behind its name.
    fn tail(&self, now: Instant) -> String {
        let took = seconds(now.saturating_duration_since(self.since));
        let guard = self.guard.map_or_else(String::new, |at| match at.saturating_duration_since(now) {
            Duration::ZERO => "   its guard decides now".to_owned(),
            left => format!("   guard rolls back in {}", seconds(left)),
        });
        format!("  {:<10} {took:>4}{guard}", self.step)
    }
}

fn seconds(time: Duration) -> String {
    match time.as_secs() {
        s if s < 100 => format!("{s}s"),
        s => format!("{}m{:02}s", s / 60, s % 60),
    }
}

/// A text that is too wide loses its end.
fn cut(text: &str, columns: usize) -> String {
    match text.chars().count() {
        n if n <= columns => text.to_owned(),
        _ => text.chars().take(columns.saturating_sub(1)).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::HostStatus;

    fn flying(hosts: usize) -> (Board, Instant) {
        let (mut board, now) = (Board::default(), Instant::now());
        board.hear(&EngineEvent::Applying { hosts: 200, max_fail: 3 }, now);
        board.hear(&EngineEvent::Batch { number: 2, of: 3 }, now);
        for n in 0..hosts {
            let guard = (n % 2 == 0).then_some(Duration::from_secs(60));
            board.hear(&EngineEvent::Step(format!("kvm{n:03}.dc1.example.net"), "confirming", guard), now);
        }
        (board, now + Duration::from_secs(7))
    }

    #[test]
    fn hosts_in_flight_with_their_guards() {
        let (board, now) = flying(2);
        assert_eq!(
            board.lines(10, 80, now),
            [
                "  kvm000.dc1.example.net  confirming   7s   guard rolls back in 53s",
                "  kvm001.dc1.example.net  confirming   7s",
            ]
        );
        assert_eq!(board.summary(), "  batch 2/3  failed 0/3");
    }

    #[test]
    fn a_narrow_or_low_screen_is_not_overflown() {
        for (rows, columns) in [(1, 20), (5, 40), (23, 80), (60, 200), (0, 10)] {
            let (board, now) = flying(32);
            let lines = board.lines(rows, columns, now);
            assert!(lines.len() <= rows, "{rows}: {lines:?}");
            assert!(lines.iter().all(|line| line.chars().count() <= columns), "{columns}: {lines:?}");
        }
        let (board, now) = flying(32);
        assert_eq!(board.lines(5, 80, now).last().unwrap(), "  … and 28 more");
    }

    #[test]
    fn a_long_name_pushes_no_guard_off_the_screen() {
        let (mut board, now) = flying(3);
        let long = "kvm100.a-very-long-rack-name-in-the-third-hall-of-the-north.dc1.emea.corp.example.net";
        board.hear(&EngineEvent::Step(long.to_owned(), "confirming", Some(Duration::from_secs(8))), now);
        let lines = board.lines(9, 79, now);
        assert!(lines[0].ends_with("guard rolls back in 53s"), "{lines:#?}");
        assert_eq!(
            lines[3],
            "  kvm100.a-very-long-rack-name-in-th…  confirming   0s   guard rolls back in 8s"
        );
        // Where there is room it is there in full, and the others stay as near to their steps.
        let lines = board.lines(9, 199, now);
        assert!(lines[3].starts_with(&format!("  {long}  confirming")), "{lines:#?}");
        assert!(
            lines[0].starts_with(&format!("  {:<36}  confirming", "kvm000.dc1.example.net")),
            "{lines:#?}"
        );
    }

    #[test]
    fn the_bar_gives_way_to_what_it_counts() {
        let (mut board, now) = flying(0);
        let head = |board: &Board, columns| board.head(columns, Some(Duration::from_secs(95)));
        assert_eq!(head(&board, 79), (16, " 0/200 hosts  batch 2/3  failed 0/3".to_owned()));
        board.hear(&EngineEvent::Done(HostOutcome::new("kvm1", HostStatus::Failed)), now);
        assert_eq!(head(&board, 79), (16, " 1/200 hosts  batch 2/3  failed 1/3  eta 95s".to_owned()));
        assert_eq!(head(&board, 60).0, 5);
        let (mut all, now) = flying(199);
        all.hear(&EngineEvent::Done(HostOutcome::new("kvm1", HostStatus::Failed)), now);
        assert_eq!(head(&all, 79).1, " 1/200 hosts  batch 2/3  failed 1/3", "nobody is left to begin");
        let (bar, text) = head(&board, 40);
        assert_eq!((bar, text.as_str()), (4, " 1/200 hosts  batch 2/3 …"));
    }

    #[test]
    fn who_ends_makes_room() {
        let (mut board, now) = flying(3);
        let host = "kvm000.dc1.example.net";
        board.hear(&EngineEvent::Done(HostOutcome::new(host, HostStatus::RolledBack)), now);
        assert_eq!((board.done, board.lines(9, 80, now).len()), (1, 2));
        assert_eq!(
            board.heartbeat(),
            "… 1 of 200 hosts  batch 2/3  failed 1/3; in flight: kvm[001-002].dc1.example.net"
        );
    }
}
