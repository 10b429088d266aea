use super::*;

/// A terminal that wraps, scrolls and, when it gets another width, flows what it shows anew, as most do.
struct Emulated(Mutex<Grid>);

struct Grid {
    columns: usize,
    rows: usize,
    /// All that was ever shown, what has scrolled away included; whether a line goes on in the next.
    lines: Vec<(Vec<char>, bool)>,
    at: (usize, usize),
    writes: usize,
}

impl Terminal for Emulated {
    fn size(&self) -> Option<(usize, usize)> {
        let grid = self.grid();
        Some((grid.columns, grid.rows))
    }

    fn write(&self, text: &str) {
        self.grid().write(text);
    }
}

impl Emulated {
    fn new(columns: usize, rows: usize) -> &'static Self {
        let lines = vec![(Vec::new(), false)];
        Box::leak(Box::new(Self(Mutex::new(Grid { columns, rows, lines, at: (0, 0), writes: 0 }))))
    }

    fn grid(&self) -> MutexGuard<'_, Grid> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it shows and has shown, wrapped lines put together.
    fn text(&self) -> Vec<String> {
        self.grid().joined().iter().map(|line| line.iter().collect::<String>()).collect()
    }
}

impl Grid {
    fn top(&self) -> usize {
        self.lines.len().saturating_sub(self.rows)
    }

    fn down(&mut self) {
        self.at.0 += 1;
        if self.at.0 == self.lines.len() {
            self.lines.push((Vec::new(), false));
        }
    }

    fn write(&mut self, text: &str) {
        self.writes += 1;
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            match c {
                '\r' => self.at.1 = 0,
                '\n' => self.down(),
                '\x1b' => {
                    let mut code = String::new();
                    while !code.ends_with(|c: char| c.is_ascii_alphabetic()) {
                        code.extend(rest.next().filter(|c| *c != '['));
                    }
                    self.obey(&code);
                }
                c => {
                    if self.at.1 == self.columns {
                        self.lines[self.at.0].1 = true;
                        self.down();
                        self.at.1 = 0;
                    }
                    let cells = &mut self.lines[self.at.0].0;
                    cells.resize(cells.len().max(self.at.1 + 1), ' ');
                    cells[self.at.1] = c;
                    self.at.1 += 1;
                }
            }
        }
    }

    fn obey(&mut self, code: &str) {
        let by = || code[..code.len() - 1].parse::<usize>().unwrap();
        match code.chars().last().unwrap() {
            'A' => self.at.0 = self.at.0.saturating_sub(by()).max(self.top()),
            'B' => self.at.0 = (self.at.0 + by()).min(self.lines.len() - 1),
            'K' => self.lines[self.at.0] = (Vec::new(), false),
            'm' => {}
            _ => panic!("{code}"),
        }
    }

    fn joined(&self) -> Vec<Vec<char>> {
        let mut all: Vec<Vec<char>> = vec![Vec::new()];
        for (cells, goes_on) in &self.lines {
            all.last_mut().unwrap().extend(cells);
            if !goes_on {
                all.push(Vec::new());
            }
        }
        all.pop();
        all
    }

    /// The cursor stays at the end, where a board leaves it.
    fn resize(&mut self, columns: usize, rows: usize) {
        let joined = self.joined();
        (self.columns, self.rows) = (columns, rows);
        self.lines.clear();
        for line in joined {
            let mut pieces: Vec<_> = line.chunks(columns).map(|piece| (piece.to_vec(), true)).collect();
            pieces.resize_with(pieces.len().max(1), || (Vec::new(), false));
            pieces.last_mut().unwrap().1 = false;
            self.lines.extend(pieces);
        }
        let last = self.lines.len() - 1;
        self.at = (last, self.lines[last].0.len());
    }
}

fn host(n: usize) -> String {
    format!("kvm{n:03}.dc1.example.net")
}

fn began(terminal: &'static Emulated) -> Progress {
    let mut progress = Progress::on(terminal, ProgressMode::Bar, Style::default());
    progress.show(EngineEvent::Applying { hosts: 200, max_fail: 9 });
    for n in 0..32 {
        progress.show(EngineEvent::Step(host(n), "confirming", Some(Duration::from_secs(60))));
    }
    progress
}

fn fails(n: usize) -> bool {
    n % 5 == 4
}

/// A host ends, and the next one begins.
fn next(progress: &mut Progress, n: usize) {
    progress.show(EngineEvent::Step(host(n + 32), "staging", None));
    let mut outcome = HostOutcome::new(host(n), HostStatus::Changed);
    if fails(n) {
        outcome.status = HostStatus::RolledBack;
        outcome.message = Some("nobody confirmed over a new connection within 20s, and so on ".repeat(3));
    }
    progress.show(EngineEvent::Done(outcome));
}

fn finished(n: usize) -> String {
    let word = if fails(n) { "ROLLED BACK" } else { "changed" };
    format!("  {}  {word}", host(n))
}

#[test]
fn finished_lines_stay_above_and_nothing_else_does() {
    let terminal = Emulated::new(80, 24);
    let mut progress = began(terminal);
    (0..60).for_each(|n| next(&mut progress, n));
    let shown = terminal.text();
    assert_eq!(shown.iter().filter(|line| line.contains("/200 hosts")).count(), 1, "{shown:#?}");
    let board = shown.iter().position(|line| line.contains("/200 hosts")).unwrap();
    assert_eq!(shown.len() - board, 22, "a line is left to what has just ended: {shown:#?}");
    progress.finish();
    let shown = terminal.text();
    let above: Vec<&String> = shown.iter().filter(|line| line.starts_with("  kvm")).collect();
    assert_eq!(above.len(), 60, "{shown:#?}");
    for (n, line) in above.iter().enumerate() {
        assert!(line.starts_with(&finished(n)), "{line}");
    }
    assert!(!shown.iter().any(|line| line.contains("confirming") || line.contains("hosts")), "{shown:#?}");
}

#[test]
fn an_empty_line_is_one_line_and_a_full_one_too() {
    let terminal = Emulated::new(80, 24);
    let mut progress = began(terminal);
    let full = "x".repeat(80);
    for text in ["before\n\nafter", &full, "last"] {
        progress.bar.as_ref().unwrap().println(text);
    }
    progress.finish();
    let shown = terminal.text();
    let at = shown.iter().position(|line| line == "before").unwrap();
    assert_eq!(shown[at..at + 5], ["before", "", "after", &full, "last"], "{shown:#?}");
}

#[test]
fn a_window_may_change_its_size() {
    let terminal = Emulated::new(200, 50);
    let mut progress = began(terminal);
    let mut n = 0;
    for (columns, rows) in [(200, 50), (80, 24), (60, 15), (120, 40), (45, 10), (200, 50)] {
        terminal.grid().resize(columns, rows);
        for _ in 0..12 {
            next(&mut progress, n);
            n += 1;
        }
        let grid = terminal.grid();
        let screen = &grid.lines[grid.top()..];
        let text = || screen.iter().map(|(cells, _)| cells.iter().collect::<String>()).collect::<Vec<_>>();
        let bars = text().iter().filter(|line| line.contains("/200 hosts")).count();
        assert_eq!(bars, 1, "{columns}x{rows}: {:#?}", text());
        let bar = text().iter().position(|line| line.contains("/200 hosts")).unwrap();
        assert!(screen[bar..].iter().all(|(_, goes_on)| !goes_on), "{columns}x{rows}: {:#?}", text());
    }
    progress.finish();
    let shown = terminal.text();
    for n in 0..n {
        let with = shown.iter().filter(|line| line.starts_with(&finished(n))).count();
        assert_eq!(with, 1, "{}: {shown:#?}", finished(n));
    }
}

#[test]
fn one_change_is_one_write() {
    let terminal = Emulated::new(80, 24);
    let mut progress = began(terminal);
    // The limit of drawings goes by the clock, and might take a second write away.
    let canvas = Canvas { terminal, style: progress.style, screen: Mutex::default() };
    progress.bar.as_ref().unwrap().set_draw_target(ProgressDrawTarget::term_like(Box::new(canvas)));
    for more in 1..100 {
        let before = terminal.grid().writes;
        progress.board.done = more;
        progress.draw();
        assert_eq!(terminal.grid().writes, before + 1);
        let shown = terminal.text();
        assert!(shown.iter().any(|line| line.contains(&format!(" {more}/200 hosts"))), "{shown:#?}");
    }
}
