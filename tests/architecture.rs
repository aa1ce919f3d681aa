//! Checks that imports between the rooms of `src/` run downwards, and that the guide is up to date.
//!
//! Only `use` declarations are read. Methods, macros, doc links and tests are not checked.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test may fail in any line")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The rooms, from top to bottom: each may import from those behind it.
const ROOMS: [&str; 25] = [
    "fuzzing",
    "admin",
    "serve",
    "metrics",
    "trace",
    "service",
    "session_data",
    "discovery",
    "upstream",
    "dispatch",
    "affinity",
    "store",
    "health",
    "strategy",
    "pool",
    "session",
    "outcome",
    "token",
    "redis",
    "id",
    "tls",
    "util",
    "error",
    "hash",
    "guide",
];

/// A path, segment by segment.
type Segments = Vec<String>;

/// One imported item.
struct Import {
    /// From the crate's root on.
    path: Segments,
    /// What it is called here.
    name: String,
    is_public: bool,
}

/// A file, with what it imports from the crate.
struct Module {
    file: PathBuf,
    imports: Vec<Import>,
}

/// All files, by the path of their module.
type Modules = BTreeMap<String, Module>;

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The path of the module in `file`, which is empty for the crate's root.
fn module_of(file: &Path) -> Segments {
    let relative = file.strip_prefix(source()).unwrap().with_extension("");
    let mut path: Segments =
        relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if matches!(path.last().map(String::as_str), Some("mod" | "lib")) {
        path.pop();
    }
    path
}

/// The text without its modules of tests.
fn without_tests(text: &str) -> String {
    let (mut kept, mut lines) = (String::new(), text.lines().peekable());
    while let Some(line) = lines.next() {
        let next = lines.peek().copied().unwrap_or_default();
        if line == "#[cfg(test)]" && next.contains("mod ") && next.ends_with('{') {
            while lines.next().is_some_and(|line| line != "}") {}
        } else {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// The `use` declarations of a file, each with whether it is public.
fn declarations(text: &str) -> Vec<(bool, String)> {
    let (mut all, mut open): (Vec<(bool, String)>, bool) = (Vec::new(), false);
    for line in text.lines().map(str::trim) {
        if open {
            let (_, declaration) = all.last_mut().unwrap();
            declaration.push_str(line);
        } else {
            let start = ["use ", "pub use ", "pub(crate) use ", "pub(super) use "]
                .into_iter()
                .find(|start| line.starts_with(start));
            let Some(start) = start else { continue };
            all.push((start.starts_with("pub"), line[start.len()..].to_owned()));
        }
        open = !line.ends_with(';');
    }
    for (_, declaration) in &mut all {
        declaration.pop();
    }
    all
}

/// The paths in a tree such as `a::{b, c::{self, d as e}}`.
fn leaves(prefix: &[String], tree: &str, found: &mut Vec<(Segments, String)>) {
    if let Some((head, rest)) = tree.split_once('{') {
        let mut prefix = prefix.to_vec();
        prefix.extend(head.split("::").map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned));
        let inner = rest.strip_suffix('}').expect("a closing brace");
        let (mut depth, mut start) = (0, 0);
        for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    let part = inner[start..at].trim();
                    if !part.is_empty() {
                        leaves(&prefix, part, found);
                    }
                    start = at + 1;
                }
                _ => {}
            }
        }
        return;
    }
    let (path, name) = tree.split_once(" as ").map_or((tree, None), |(path, n)| (path, Some(n)));
    let mut full = prefix.to_vec();
    full.extend(path.split("::").map(|segment| segment.trim().to_owned()));
    if full.len() > 1 && full.last().is_some_and(|last| last == "self") {
        full.pop();
    }
    let name = name.map_or_else(|| full.last().unwrap().clone(), |name| name.trim().to_owned());
    found.push((full, name));
}

/// The path from the crate's root on, if it is one of the crate's.
fn absolute(path: &[String], module: &[String]) -> Option<Segments> {
    let mut at = match path[0].as_str() {
        "crate" => return Some(path[1..].to_vec()),
        "self" | "super" => module.to_vec(),
        _ => return None,
    };
    let ups = path.iter().take_while(|segment| matches!(segment.as_str(), "self" | "super"));
    let count = ups.clone().count();
    for segment in ups {
        if segment == "super" {
            at.pop();
        }
    }
    at.extend_from_slice(&path[count..]);
    Some(at)
}

fn modules() -> Modules {
    let mut all = Vec::new();
    files(&source(), &mut all);
    let mut modules = Modules::new();
    for file in all {
        let module = module_of(&file);
        let text = without_tests(&fs::read_to_string(&file).unwrap());
        let mut imports = Vec::new();
        for (is_public, declaration) in declarations(&text) {
            let mut found = Vec::new();
            leaves(&[], &declaration, &mut found);
            for (path, name) in found {
                if let Some(path) = absolute(&path, &module) {
                    imports.push(Import { path, name, is_public });
                }
            }
        }
        modules.insert(module.join("::"), Module { file, imports });
    }
    modules
}

/// The module that an imported path leads to, through re-exports.
fn resolve(modules: &Modules, path: &[String], depth: usize) -> String {
    let length = (0..=path.len()).rev().find(|n| modules.contains_key(&path[..*n].join("::")));
    let length = length.unwrap();
    let module = path[..length].join("::");
    if let Some(name) = path.get(length)
        && depth < 8
    {
        let exports = modules[&module].imports.iter().filter(|import| import.is_public);
        for export in exports.filter(|export| export.name == *name) {
            if export.path != path[..=length] {
                return resolve(modules, &export.path, depth + 1);
            }
        }
    }
    module
}

/// Which module imports from which, re-exports of a room's or the crate's front aside.
fn edges(modules: &Modules) -> BTreeMap<&str, BTreeSet<String>> {
    let mut edges = BTreeMap::<&str, BTreeSet<String>>::new();
    for (name, module) in modules {
        let is_front = module.file.ends_with("mod.rs") || name.is_empty() || name == "error";
        for import in module.imports.iter().filter(|import| !(import.is_public && is_front)) {
            let to = resolve(modules, &import.path, 0);
            if to != *name {
                edges.entry(name).or_default().insert(to);
            }
        }
    }
    edges
}

fn room(module: &str) -> &str {
    module.split("::").next().unwrap()
}

#[test]
fn every_file_is_in_a_room() {
    for (name, module) in modules() {
        let loose = matches!(&*name, "" | "error");
        assert!(loose || ROOMS.contains(&room(&name)), "{} is in no room", module.file.display());
        let is_loose = module.file.parent() == Some(&*source());
        assert_eq!(is_loose, loose, "{} is a loose file", module.file.display());
    }
}

#[test]
fn no_import_goes_through_the_root() {
    for (name, module) in modules() {
        let through = module.imports.iter().filter(|_| !name.is_empty());
        let mut through = through.filter(|import| !ROOMS.contains(&&*import.path[0]));
        assert!(
            through.next().is_none(),
            "{name} imports through the root; name the room, as in `use crate::pool::Backends`"
        );
    }
}

#[test]
fn no_import_runs_upwards() {
    let modules = modules();
    let height = |module: &str| ROOMS.iter().position(|it| *it == room(module));
    let mut upwards = Vec::new();
    for (from, all) in edges(&modules) {
        for to in all {
            if !from.is_empty() && height(&to) < height(from) {
                upwards.push(format!("{from} imports from {to}"));
            }
        }
    }
    assert!(upwards.is_empty(), "imports that run upwards:\n{}", upwards.join("\n"));
}

#[test]
fn no_imports_form_a_circle() {
    let modules = modules();
    let mut edges = edges(&modules);
    edges.remove("");
    // What imports nothing that is left is taken away, until nothing is, or only circles are.
    loop {
        let left: BTreeSet<String> = edges.keys().map(|name| (*name).to_owned()).collect();
        edges.retain(|_, to| {
            to.retain(|module| left.contains(module));
            !to.is_empty()
        });
        if edges.len() == left.len() {
            break;
        }
    }
    assert!(edges.is_empty(), "in circles, or importing from one: {edges:#?}");
}

#[test]
fn a_mod_file_has_no_logic() {
    let starts = ["struct ", "enum ", "trait ", "fn ", "impl ", "impl<", "const ", "static "];
    for module in modules().into_values().filter(|module| module.file.ends_with("mod.rs")) {
        let text = fs::read_to_string(&module.file).unwrap();
        for line in text.lines() {
            let bare = line.strip_prefix("pub ").or(line.strip_prefix("pub(crate) "));
            let bare = bare.unwrap_or(line);
            let logic = starts.iter().any(|start| bare.starts_with(start));
            assert!(!logic, "{} has logic: {line}", module.file.display());
        }
    }
}

#[test]
fn what_the_guide_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for page in ["architecture.md", "extend.md"] {
        let text = fs::read_to_string(source().join("guide").join(page)).unwrap();
        let prose =
            text.split("```").step_by(2).flat_map(|prose| prose.split('`').skip(1).step_by(2));
        for named in prose {
            let (path, test) = named.split_once("::").unwrap_or((named, ""));
            if !path.ends_with(".rs") || !path.contains('/') {
                continue;
            }
            let file = match path.starts_with("tests/") {
                true => root.join(path),
                false => source().join(path),
            };
            let content = fs::read_to_string(&file);
            let content = content.unwrap_or_else(|_| panic!("{page} names {path}, which is gone"));
            let is_there = content.contains(&format!("fn {test}"));
            assert!(is_there, "{page} names the test {named}, which is gone");
        }
    }
}

#[test]
fn the_guide_and_the_contribution_guide_list_the_rooms_in_order() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = fs::read_to_string(source().join("guide/architecture.md")).unwrap();
    let rows = guide.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    assert_eq!(rows.collect::<Vec<_>>(), ROOMS, "the table of the guide");
    let contributing = fs::read_to_string(root.join("CONTRIBUTING.md")).unwrap();
    let listed = ROOMS.map(|room| format!("`{room}`")).join(", ");
    let one_line = contributing.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(one_line.contains(&listed), "CONTRIBUTING.md lists the rooms in this order: {listed}");
}
