//! Tells `--version` the commit of a release build: from `KVMFW_COMMIT`, else from what git or cargo
//! left beside the sources. git itself is not needed, and sources without either build too.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=KVMFW_COMMIT");
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let given = env::var("KVMFW_COMMIT").ok().filter(|commit| !commit.is_empty());
    // While working, a new commit is no reason to compile again.
    let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = given.or_else(|| release.then(|| of_git().or_else(of_package)).flatten());
    let commit = commit.filter(|commit| commit.len() >= 7 && commit.bytes().all(|b| b.is_ascii_hexdigit()));
    match commit {
        Some(commit) => {
            let short: String = commit.chars().take(12).collect();
            println!("cargo:rustc-env=KVMFW_VERSION={version} ({short})");
        }
        None => println!("cargo:rustc-env=KVMFW_VERSION={version}"),
    }
}

/// The commit that is checked out.
fn of_git() -> Option<String> {
    let git = git_folder()?;
    let head = read(&git.join("HEAD"))?;
    let Some(name) = head.strip_prefix("ref: ") else { return Some(head) };
    // A worktree shares its branches with the repository it came from.
    let common = read(&git.join("commondir")).map_or_else(|| git.clone(), |path| git.join(path));
    if let Some(commit) = read(&common.join(name)) {
        return Some(commit);
    }
    let packed = read(&common.join("packed-refs"))?;
    packed.lines().find_map(|line| line.strip_suffix(name)?.strip_suffix(' ').map(str::to_owned))
}

fn git_folder() -> Option<PathBuf> {
    let git = Path::new(".git");
    if git.is_dir() {
        return Some(git.to_owned());
    }
    fs::read_to_string(git).ok()?.trim().strip_prefix("gitdir: ").map(PathBuf::from)
}

/// What `cargo package` wrote down.
fn of_package() -> Option<String> {
    let text = read(Path::new(".cargo_vcs_info.json"))?;
    text.split("\"sha1\": \"").nth(1)?.split('"').next().map(str::to_owned)
}

fn read(path: &Path) -> Option<String> {
    println!("cargo:rerun-if-changed={}", path.display());
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}
