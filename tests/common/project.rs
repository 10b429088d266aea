//! A kvmfw project for a lab, in a folder of its own, and the real program run in it.

use super::Lab;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A project folder with one inventory named `lab`.
pub struct Project {
    folder: tempfile::TempDir,
    hosts: Vec<(String, String)>,
    lab: PathBuf,
}

/// A folder that is good for `XDG_RUNTIME_DIR`.
pub fn runtime_folder() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o700)).tempdir().unwrap()
}

/// What a run of kvmfw said.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

/// A host of a JSON document.
#[track_caller]
pub fn host_of<'a>(document: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    let hosts = document["hosts"].as_array().expect("hosts");
    hosts.iter().find(|h| h["name"] == name).unwrap_or_else(|| panic!("{name}: {document:#}"))
}

impl Run {
    /// The run, after a check of its exit code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "\nstdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Its stdout as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}\n{}", self.stdout, self.stderr))
    }

    /// The run's name, from its recap.
    #[track_caller]
    pub fn run(&self) -> String {
        let line = self.stdout.lines().find_map(|l| l.strip_prefix("Run "));
        line.unwrap_or_else(|| panic!("no run in {}", self.stdout)).trim().to_owned()
    }
}

impl Project {
    /// A project for hosts of a lab; `all` is the YAML of the group `all` less `ssh:`, its lines
    /// without indentation.
    pub fn new(lab: &Lab, hosts: &[&str], all: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let hosts = hosts.iter().map(|h| ((*h).to_owned(), lab.address(h))).collect();
        let project = Self { folder, hosts, lab: lab.dir().to_owned() };
        project.all(all);
        project
    }

    /// The project's folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes the inventory anew.
    pub fn all(&self, all: &str) {
        self.all_with_ssh("user: root", all);
    }

    /// The same with other `ssh:` settings beside key and known hosts (`user: admin, become: sudo`).
    pub fn all_with_ssh(&self, ssh: &str, all: &str) {
        let mut text = String::from("hosts:\n");
        for (name, address) in &self.hosts {
            text.push_str(&format!("  {name}: {{ address: '{address}' }}\n"));
        }
        let lab = self.lab.display();
        text.push_str(&format!(
            "groups:\n  all:\n    ssh: {{ {ssh}, identity_file: {lab}/id_ed25519, known_hosts: {lab}/known_hosts, connect_timeout: 2s }}\n"
        ));
        for line in all.lines() {
            text.push_str(&format!("    {line}\n"));
        }
        self.write("inventories/lab.yaml", &text);
    }

    /// Takes the inventories away; what is left knows no host.
    pub fn without_inventories(self) -> Self {
        fs::remove_dir_all(self.folder.path().join("inventories")).unwrap();
        self
    }

    /// Writes a module of the project.
    pub fn module(&self, name: &str, yaml: &str) {
        self.write(&format!("modules/{name}/module.yaml"), yaml);
    }

    /// Writes any file of the project.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// The command, in the lab's controller namespace, not yet run.
    pub fn command(&self, lab: &Lab, args: &[&str]) -> Command {
        // Another program can be put to the same tests.
        let program = std::env::var("KVMFW").unwrap_or_else(|_| env!("CARGO_BIN_EXE_kvmfw").to_owned());
        let mut command = lab.exec_command(program);
        command
            .args(args)
            .args(["-C", self.folder.path().to_str().unwrap(), "--color", "never"])
            .env("KVMFW_RUN_DIR", self.folder.path().join("runs"))
            .env_remove("NO_COLOR")
            .stdin(Stdio::null());
        command
    }

    /// Runs kvmfw to its end.
    pub fn kvmfw(&self, lab: &Lab, args: &[&str]) -> Run {
        let start = Instant::now();
        let output = self.command(lab, args).output().unwrap();
        Run {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            took: start.elapsed(),
        }
    }

    /// Starts kvmfw and lets it run.
    pub fn spawn(&self, lab: &Lab, args: &[&str]) -> Child {
        self.command(lab, args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// `apply -y` with short timeouts, so that a rollback does not take a test two minutes.
    pub fn apply(&self, lab: &Lab, more: &[&str]) -> Run {
        let mut args = vec!["apply", "-y", "--apply-timeout", "10s", "--confirm-timeout", "5s"];
        args.extend(more);
        self.kvmfw(lab, &args)
    }
}
