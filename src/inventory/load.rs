//! Finds and reads the files of a project; the only place of the inventory that touches the disk.

use super::ansible;
use super::fence::{ReadFence, is_program};
use super::module_test::{self, ModuleTest};
use super::project::{Project, ProjectFiles, SourceFile, assemble};
use super::reader::InventoryReader;
use crate::problem::{Problem, Problems, Sources, did_you_mean};
use crate::yaml;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{env, fs};

/// Where to look for a project and its inventory.
#[derive(Clone, Debug, Default)]
pub struct ProjectLocation {
    /// `-C`: the project's folder.
    pub dir: Option<PathBuf>,
    /// `-i`: the inventory's name or path.
    pub inventory: Option<String>,
    /// What `~/` stands for in an inventory.
    pub home: Option<PathBuf>,
}

/// Reads the inventory and the modules of a project.
///
/// Errors: everything that is wrong with them without looking at single hosts.
pub fn load(locate: &ProjectLocation) -> Result<Project, Problems> {
    let root = root(locate)?;
    let mut read = ProjectLoader::new(&root);
    let path = inventory_path(&root, &read.fence, locate.inventory.as_deref())?;
    read.fence.let_in(&path);
    let folder = path.is_dir();
    let name = if folder { path.file_name() } else { path.file_stem() };
    let mut files = ProjectFiles {
        name: name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        root: root.clone(),
        home: locate.home.clone(),
        ..ProjectFiles::default()
    };
    if folder {
        files.inventory = read.folder(&path);
    } else if is_program(&path) {
        let message = "is a program, and -i reads only files";
        let help = format!("if you trust it, run it with --inventory-program {}", path.display());
        let name = read.shown(&path);
        read.problems.push(Problem::new("program", message).at(&name, 1, 1, 1).help(help));
    } else {
        files.inventory.extend(read.file(&path).and_then(|file| read.translated(file)));
    }
    if let Err(why) = super::names::check_host(&files.name) {
        let help = "its name is recorded on the hosts; rename the file or folder, for example to `prod`";
        read.problems
            .push(Problem::new("bad-name", format!("inventory name `{}` {why}", files.name)).help(help));
    }
    files.modules = read.modules();
    finish(files, read.problems)
}

/// Reads the modules of a project, with an inventory whose text is given: YAML, or JSON as a file
/// may have it.
pub fn load_text(locate: &ProjectLocation, name: &str, text: &str) -> Result<Project, Problems> {
    let root = root(locate)?;
    let mut read = ProjectLoader::new(&root);
    let file = SourceFile { name: format!("({name})").into(), folder: root.clone(), text: text.into() };
    let files = ProjectFiles {
        name: name.to_owned(),
        home: locate.home.clone(),
        inventory: read.translated(file).into_iter().collect(),
        modules: read.modules(),
        root: root.clone(),
    };
    finish(files, read.problems)
}

/// The tests of the project's modules, and their texts for snippets.
///
/// Errors: everything that is wrong with how they are written.
pub fn module_tests(project: &Project) -> Result<(Vec<ModuleTest>, Sources), Problems> {
    let mut read = ProjectLoader::new(&project.root);
    let (mut tests, mut sources) = (Vec::new(), Sources::new());
    for folder in entries(&project.root.join("modules")) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let tests_folder = folder.join("tests");
        if !project.modules.contains_key(&name) || !(tests_folder.is_dir() || tests_folder.is_symlink()) {
            continue;
        }
        for file in read.folder(&tests_folder) {
            sources.insert(file.name.clone(), file.text.clone());
            let root = match yaml::parse(&file.name, &file.text) {
                Ok(root) => root,
                Err(mut problems) => {
                    read.problems.append(&mut problems);
                    continue;
                }
            };
            let mut reader = InventoryReader::new(&file.text, &file.folder, None);
            tests.extend(module_test::tests(&name, &root, project, &mut reader));
            read.problems.append(&mut reader.problems);
        }
    }
    if read.problems.is_empty() {
        Ok((tests, sources))
    } else {
        Err(Problems { list: read.problems, sources })
    }
}

/// What could not be read is told together with what is wrong in what could.
fn finish(files: ProjectFiles, unread: Vec<Problem>) -> Result<Project, Problems> {
    let sources = || -> Sources {
        let all = files.inventory.iter().chain(files.modules.iter().map(|(_, file)| file));
        all.map(|file| (file.name.clone(), file.text.clone())).collect()
    };
    if unread.is_empty() {
        return assemble(files);
    }
    Err(Problems { list: unread, sources: sources() })
}

/// The project's folder: the one that is named, else the nearest that looks like one.
pub fn root(locate: &ProjectLocation) -> Result<PathBuf, Problems> {
    if let Some(dir) = &locate.dir {
        if !dir.is_dir() {
            return Err(Problem::new("no-project", format!("`{}` is not a folder", dir.display())).into());
        }
        return Ok(absolute(dir));
    }
    let here = env::current_dir()
        .map_err(|error| Problem::new("no-project", format!("the current folder cannot be read: {error}")))?;
    let found = here.ancestors().find(|dir| dir.join("inventories").is_dir() || dir.join("modules").is_dir());
    Ok(found.map_or(here.clone(), Path::to_path_buf))
}

pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

/// The inventory's file or folder.
fn inventory_path(root: &Path, fence: &ReadFence, wanted: Option<&str>) -> Result<PathBuf, Problem> {
    let folder = root.join("inventories");
    if folder.is_symlink() {
        let name = Arc::from("inventories");
        fence.check(&folder).map_err(|why| Problem::new("unreadable", why).at(&name, 1, 1, 1))?;
    }
    let names = inventories(&folder);
    let known = || names.iter().map(|(name, _)| name.as_str());
    let Some(wanted) = wanted else {
        return match names.as_slice() {
            [(_, path)] => Ok(path.clone()),
            [] => Err(Problem::new("no-inventory", format!("no inventory in {}", folder.display()))
                .help("create inventories/NAME/hosts.yaml, or pass an inventory with -i")),
            _ => Err(Problem::new("no-inventory", "the project has more than one inventory")
                .help(format!("choose one with -i: {}", known().collect::<Vec<_>>().join(", ")))),
        };
    };
    let named: Vec<&PathBuf> =
        names.iter().filter(|(name, _)| name == wanted).map(|(_, path)| path).collect();
    match named.as_slice() {
        [one] => return Ok((*one).clone()),
        [] => {}
        _ => {
            let message = format!("inventory `{wanted}` exists as a file and as a folder");
            return Err(Problem::new("no-inventory", message).help("remove one, or pass its path with -i"));
        }
    }
    let path = Path::new(wanted);
    if !wanted.is_empty() && path.exists() {
        return Ok(absolute(path));
    }
    let mut problem = Problem::new("no-inventory", format!("unknown inventory `{wanted}`"));
    problem.help = did_you_mean(wanted, known().collect::<Vec<_>>());
    Err(problem)
}

/// The inventories of a project by name.
pub fn inventories(folder: &Path) -> Vec<(String, PathBuf)> {
    let mut names: Vec<(String, PathBuf)> = entries(folder)
        .into_iter()
        .filter_map(|path| {
            let yaml = path.extension().is_some_and(|ext| ext == "yaml");
            let name = if path.is_dir() { path.file_name() } else { path.file_stem().filter(|_| yaml) };
            Some((name?.to_string_lossy().into_owned(), path.clone()))
        })
        .collect();
    names.sort();
    names
}

/// What is in a folder, sorted, without hidden files.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = match fs::read_dir(folder) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(_) => return vec![],
    };
    paths.retain(|path| path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.')));
    paths.sort();
    paths
}

struct ProjectLoader<'a> {
    root: &'a Path,
    fence: ReadFence,
    problems: Vec<Problem>,
}

impl<'a> ProjectLoader<'a> {
    fn new(root: &'a Path) -> Self {
        Self { root, fence: ReadFence::new(root), problems: Vec::new() }
    }

    /// Whether a folder may be read; says so where not.
    fn may(&mut self, folder: &Path) -> bool {
        let why = self.fence.check(folder).err();
        let name = self.shown(folder);
        self.problems.extend(why.iter().map(|why| Problem::new("unreadable", why).at(&name, 1, 1, 1)));
        why.is_none()
    }

    /// The path as the user would name it.
    fn shown(&self, path: &Path) -> Arc<str> {
        path.strip_prefix(self.root).unwrap_or(path).to_string_lossy().into()
    }

    fn file(&mut self, path: &Path) -> Option<SourceFile> {
        let name = self.shown(path);
        let text = match self.fence.read(path) {
            Ok(bytes) => yaml::text(&name, bytes),
            Err(why) => Err(Problem::new("unreadable", why).at(&name, 1, 1, 1)),
        };
        match text {
            Ok(text) => {
                let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
                Some(SourceFile { name, folder, text: text.into() })
            }
            Err(problem) => {
                self.problems.push(problem);
                None
            }
        }
    }

    /// JSON becomes YAML first; the name says so, because lines are counted in the result.
    fn translated(&mut self, file: SourceFile) -> Option<SourceFile> {
        match ansible::translate(&file.text) {
            Ok(None) => Some(file),
            Ok(Some(text)) => {
                Some(SourceFile { name: format!("{} as YAML", file.name).into(), text: text.into(), ..file })
            }
            Err(why) => {
                self.problems.push(Problem::new("ansible", why).at(&file.name, 1, 1, 1));
                None
            }
        }
    }

    fn folder(&mut self, folder: &Path) -> Vec<SourceFile> {
        let mut files = Vec::new();
        if !self.may(folder) {
            return files;
        }
        for path in entries(folder) {
            match path.extension().and_then(|ext| ext.to_str()) {
                Some("yaml") if !path.is_dir() => files.extend(self.file(&path)),
                Some("yml") => {
                    let name = self.shown(&path);
                    let problem = Problem::new("unreadable", "ends with .yml and is not read");
                    self.problems.push(problem.at(&name, 1, 1, 1).help("rename it to .yaml"));
                }
                _ => {}
            }
        }
        if files.is_empty() && self.problems.is_empty() {
            let message = format!("no *.yaml file in {}", self.shown(folder));
            self.problems.push(Problem::new("no-inventory", message));
        }
        files
    }

    fn modules(&mut self) -> Vec<(String, SourceFile)> {
        let mut modules = Vec::new();
        let all = self.root.join("modules");
        if all.is_symlink() && !self.may(&all) {
            return modules;
        }
        for folder in entries(&all) {
            if folder.is_symlink() && !self.may(&folder) {
                continue;
            }
            let path = folder.join("module.yaml");
            let Some(name) = folder.file_name().and_then(|name| name.to_str()) else { continue };
            if path.exists() || path.is_symlink() {
                modules.extend(self.file(&path).map(|file| (name.to_owned(), file)));
            }
        }
        modules
    }
}
