//! Texts, formats, the rules of the source and pieces of the host scripts: nothing here needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod accepted;
mod architecture;
mod awk;
mod bad_input;
mod book;
mod canon_rows;
mod completions;
mod desired;
mod expectations;
mod explain;
mod extensions;
mod fleet;
mod generate;
mod help;
mod host_after;
mod hostile_project;
mod hosts_arguments;
mod lint_levels;
mod lints;
mod look;
mod module_command;
mod module_tests;
mod never_panics;
mod own_text;
mod pieces;
mod protocol;
mod shard;
