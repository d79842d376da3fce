//! Monitor, keepers and simulator run the same drivers, and nothing goes past them.

use std::fs;
use std::path::{Path, PathBuf};

/// Where a decision may be asked for: the drivers, and the files that define it.
const ALLOWED: [(&str, &[&str]); 2] = [
    ("decide(", &["vigil-core/src/driver/group.rs", "vigil-core/src/decide.rs"]),
    ("next_step(", &["vigil-core/src/driver/node.rs", "vigil-core/src/node/next.rs"]),
];

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            out.push(path);
        }
    }
}

#[test]
fn nothing_but_the_drivers_asks_for_decisions() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("crates/");
    let mut files = Vec::new();
    for krate in fs::read_dir(crates).expect("crates/").flatten() {
        let src = krate.path().join("src");
        if src.is_dir() {
            sources(&src, &mut files);
        }
    }
    assert!(files.len() > 50, "only {} files", files.len());
    let mut calls = 0;
    for file in files {
        let text = fs::read_to_string(&file).expect("text");
        for (call, allowed) in ALLOWED {
            let called = text.lines().any(|line| {
                let code = line.split("//").next().unwrap_or_default();
                code.match_indices(call).any(|(at, _)| {
                    let before = code[..at].chars().next_back();
                    !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
                })
            });
            if called {
                calls += 1;
                let known = allowed.iter().any(|end| file.ends_with(end));
                assert!(known, "{} calls {call}…)", file.display());
            }
        }
    }
    assert!(calls >= ALLOWED.len(), "the drivers do not ask either");
}
