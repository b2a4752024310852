//! A small file system made of the machine's own programs, with the libraries that they need: a shell, socat, perl.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::archive::Tree;
use super::needs;

/// Without these the examples do not run: program and Debian package.
const NEEDED: [(&str, &str); 3] = [("sh", "dash"), ("socat", "socat"), ("perl", "perl-base")];
/// For people who look into a pod, and for tests; what the machine lacks is left out.
const MORE: [&str; 36] = [
    "cat", "chmod", "cp", "cut", "date", "dd", "echo", "env", "false", "grep", "head", "hostname", "id", "kill", "ls",
    "mkdir", "mkfifo", "mv", "nproc", "ps", "readlink", "rm", "sed", "seq", "sleep", "sort", "ss", "stat", "tail",
    "tee", "timeout", "touch", "tr", "true", "uname", "wc",
];

/// The file system: `/usr/bin`, libraries where the dynamic linker looks for them, a few files of `/etc`, `/tmp`.
///
/// # Errors
///
/// When the machine lacks socat or perl.
pub fn tree() -> Result<Tree> {
    check()?;
    let mut tree = Tree::default();
    let programs = NEEDED.map(|(program, _)| program).into_iter().chain(MORE);
    for (program, path) in programs.filter_map(|program| Some((program, needs::find(program)?))) {
        tree.file(&format!("usr/bin/{program}"), read(&path)?, 0o755)?;
        libraries(&mut tree, &path)?;
    }
    perl_modules(&mut tree)?;
    tree.link("bin", "usr/bin")?;
    tree.directory("tmp", 0o1777)?;
    tree.directory("run", 0o755)?;
    let passwd = "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
    tree.file("etc/passwd", passwd.into(), 0o644)?;
    tree.file("etc/group", "root:x:0:\nnogroup:x:65534:\n".into(), 0o644)?;
    tree.file("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n".into(), 0o644)?;
    Ok(tree)
}

/// Whether the machine has socat and perl, or an error of one line that says how they are had.
pub fn check() -> Result<()> {
    let lacking: Vec<_> = NEEDED.into_iter().filter(|(program, _)| needs::find(program).is_none()).collect();
    let packages: Vec<_> = lacking.iter().map(|(_, package)| *package).collect();
    ensure!(
        packages.is_empty(),
        "the examples' image is made of the machine's programs: `apt-get install {}`",
        packages.join(" ")
    );
    Ok(())
}

/// What `ldd` says that a program needs. A static one needs nothing.
fn libraries(tree: &mut Tree, program: &Path) -> Result<()> {
    let output = Command::new(needs::path("ldd")).arg(program).output().context("cannot run ldd")?;
    for library in paths(&String::from_utf8_lossy(&output.stdout)) {
        if !tree.has(library) {
            tree.file(library, read(Path::new(library))?, 0o755)?;
        }
    }
    Ok(())
}

/// The files in lines such as `libc.so.6 => /lib/libc.so.6 (0x7f...)` and `/lib64/ld-linux.so.2 (0x7f...)`.
fn paths(output: &str) -> impl Iterator<Item = &str> {
    output.lines().filter_map(|line| {
        let line = line.split_once("=> ").map_or(line, |(_, path)| path).trim();
        line.split_whitespace().next().filter(|path| path.starts_with('/'))
    })
}

/// The modules that Debian's perl-base has: `strict`, `IO::Socket` and their like.
fn perl_modules(tree: &mut Tree) -> Result<()> {
    let output = Command::new(needs::path("perl")).args(["-e", r#"print "$_\n" for @INC"#]).output();
    let output = output.context("cannot run perl")?;
    let directories = String::from_utf8_lossy(&output.stdout).into_owned();
    match directories.lines().find(|directory| directory.ends_with("/perl-base")) {
        Some(directory) => add_all(tree, Path::new(directory)),
        None => Ok(()),
    }
}

/// A directory, with all that is in it, at its own path. Links are followed.
fn add_all(tree: &mut Tree, directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            add_all(tree, &path)?;
        } else {
            let name = path.to_str().with_context(|| format!("a strange name: {}", path.display()))?;
            let mode = if name.ends_with(".so") { 0o755 } else { 0o644 };
            tree.file(name, read(&path)?, mode)?;
            if mode == 0o755 {
                libraries(tree, &path)?;
            }
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_files_in_what_ldd_says() {
        let output = "\tlinux-vdso.so.1 (0x7ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x7f)\n\tlibx.so => not found\n\tnot a dynamic executable\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(paths(output).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_examples_programs_are_there_with_a_linker() {
        let tree = tree().unwrap();
        for path in ["usr/bin/sh", "usr/bin/socat", "usr/bin/perl", "etc/passwd", "tmp"] {
            assert!(tree.has(path), "{path}");
        }
    }
}
