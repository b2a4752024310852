//! Images as OCI archives: a tar file of blobs, the same bytes for the same content.
//!
//! The format: the OCI image layout and image specification 1.1; tar as of POSIX.1-1988 (ustar), which has room for
//! names of 255 bytes in two parts.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sha2::{Digest as _, Sha256};

const BLOCK: usize = 512;

/// A file system: paths without a leading slash, in the order of their names.
#[derive(Debug, Default)]
pub struct Tree(BTreeMap<String, Node>);

#[derive(Debug, PartialEq, Eq)]
enum Node {
    Directory { mode: u32 },
    File { content: Vec<u8>, mode: u32 },
    Link { to: String },
}

impl Tree {
    /// Adds a directory, or changes the mode of one.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        self.add(path, Node::Directory { mode })
    }

    /// Adds a file, and the directories that it is in.
    pub fn file(&mut self, path: &str, content: Vec<u8>, mode: u32) -> Result<()> {
        self.add(path, Node::File { content, mode })
    }

    /// Adds a symbolic link, and the directories that it is in.
    pub fn link(&mut self, path: &str, to: &str) -> Result<()> {
        self.add(path, Node::Link { to: to.to_owned() })
    }

    /// Whether there is something of that path.
    pub fn has(&self, path: &str) -> bool {
        self.0.contains_key(path.trim_start_matches('/'))
    }

    fn add(&mut self, path: &str, node: Node) -> Result<()> {
        let path = path.trim_start_matches('/');
        ensure!(
            !path.is_empty() && path.split('/').all(|part| !matches!(part, "" | "." | "..")),
            "no path: \"{path}\""
        );
        for (at, _) in path.match_indices('/') {
            let parent = self.0.entry(path[..at].to_owned()).or_insert(Node::Directory { mode: 0o755 });
            ensure!(matches!(parent, Node::Directory { .. }), "{} is no directory, but {path} is in it", &path[..at]);
        }
        self.0.insert(path.to_owned(), node);
        Ok(())
    }

    /// As a tar file; everything belongs to root, and is of 1970.
    fn tar(&self) -> Result<Vec<u8>> {
        let mut tar = Tar::default();
        for (path, node) in &self.0 {
            match node {
                Node::Directory { mode } => tar.entry(&format!("{path}/"), b'5', *mode, "", &[])?,
                Node::File { content, mode } => tar.entry(path, b'0', *mode, "", content)?,
                Node::Link { to } => tar.entry(path, b'2', 0o777, to, &[])?,
            }
        }
        Ok(tar.finish())
    }
}

/// What an image is, beside its files.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// With registry and tag.
    pub name: &'a str,
    /// The command, unless the pod says one.
    pub entrypoint: &'a [&'a str],
    /// User, or user and group, in numbers.
    pub user: &'a str,
    /// Variables beside PATH, as `NAME=VALUE`.
    pub environment: &'a [&'a str],
}

impl Image<'_> {
    /// An archive of one image with one layer.
    pub fn pack(&self, tree: &Tree) -> Result<Vec<u8>> {
        let layer = tree.tar()?;
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let environment: Vec<_> = ["PATH=/usr/bin:/bin"].iter().chain(self.environment).collect();
        let mut config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": {"User": self.user, "Env": environment},
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
        });
        if !self.entrypoint.is_empty() {
            config["config"]["Entrypoint"] = json!(self.entrypoint);
        }
        let config = serde_json::to_vec(&config)?;
        let describe = |kind: &str, blob: &[u8]| {
            let kind = format!("application/vnd.oci.image.{kind}");
            json!({"mediaType": kind, "digest": digest(blob), "size": blob.len()})
        };
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": describe("config.v1+json", &config),
            "layers": [describe("layer.v1.tar", &layer)],
        }))?;
        let (_, tag) = self.name.rsplit_once(':').with_context(|| format!("{} has no tag", self.name))?;
        let mut described = describe("manifest.v1+json", &manifest);
        described["annotations"] =
            json!({"io.containerd.image.name": self.name, "org.opencontainers.image.ref.name": tag});
        let index = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [described],
        }))?;
        let mut tar = Tar::default();
        tar.entry("oci-layout", b'0', 0o644, "", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        tar.entry("index.json", b'0', 0o644, "", &index)?;
        for blob in [&config, &manifest, &layer] {
            tar.entry(&format!("blobs/{}", digest(blob).replace(':', "/")), b'0', 0o644, "", blob)?;
        }
        Ok(tar.finish())
    }
}

/// As the OCI writes it.
fn digest(blob: &[u8]) -> String {
    let hash = Sha256::digest(blob);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn entry(&mut self, path: &str, kind: u8, mode: u32, link: &str, content: &[u8]) -> Result<()> {
        let (prefix, name) = split(path).with_context(|| format!("too long for a tar file: {path}"))?;
        ensure!(link.len() <= 100, "too long for a tar file: {link}");
        let mut header = [0; BLOCK];
        let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, name);
        put(100, &format!("{mode:07o}"));
        put(108, "0000000");
        put(116, "0000000");
        put(124, &format!("{:011o}", content.len()));
        put(136, "00000000000");
        // The sum is taken with spaces in its own place.
        put(148, "        ");
        put(157, link);
        put(257, "ustar\x0000");
        put(345, prefix);
        header[156] = kind;
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend(header);
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        Ok(())
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.extend([0; 2 * BLOCK]);
        self.0
    }
}

/// A path as ustar has it: at most 155 bytes, a slash that is left out, at most 100 bytes.
fn split(path: &str) -> Option<(&str, &str)> {
    if path.len() <= 100 {
        return Some(("", path));
    }
    let slashes = path.match_indices('/').map(|(at, _)| path.split_at(at));
    let mut fits = slashes.map(|(prefix, name)| (prefix, &name[1..]));
    fits.find(|(prefix, name)| prefix.len() <= 155 && (1..=100).contains(&name.len()))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Too long for one of the two parts that tar has for a name.
    fn deep() -> String {
        format!("{}/{}/{}", "d".repeat(70), "e".repeat(70), "f".repeat(90))
    }

    fn tree() -> Tree {
        let mut tree = Tree::default();
        tree.file("/usr/bin/program", vec![b'x'; 513], 0o755).unwrap();
        tree.file("empty", Vec::new(), 0o644).unwrap();
        tree.directory("tmp", 0o1777).unwrap();
        tree.link("bin", "usr/bin").unwrap();
        tree.file(&deep(), b"deep".to_vec(), 0o600).unwrap();
        tree
    }

    #[test]
    fn tar_unpacks_what_was_put_in() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("layer.tar");
        std::fs::write(&file, tree().tar().unwrap()).unwrap();
        let output = Command::new("tar").arg("-tvf").arg(&file).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let list = String::from_utf8(output.stdout).unwrap();
        let short: Vec<_> = list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert!(short[0].starts_with("lrwxrwxrwx 0/0 0 ") && short[0].ends_with("bin -> usr/bin"), "{list}");
        assert!(list.contains(&deep()), "{list}");
        assert!(short.iter().any(|line| line.starts_with("drwxrwxrwt 0/0 0 ") && line.ends_with("tmp/")), "{list}");
        assert!(short.iter().any(|line| line.starts_with("-rwxr-xr-x 0/0 513 ")), "{list}");
        let content = Command::new("tar").arg("-xOf").arg(&file).arg("usr/bin/program").output().unwrap().stdout;
        assert_eq!(content, vec![b'x'; 513]);
    }

    #[test]
    fn the_same_content_makes_the_same_bytes_in_whatever_order_it_comes() {
        let image = Image { name: "docker.io/x/y:1", entrypoint: &[], user: "1", environment: &[] };
        let mut other = Tree::default();
        for (path, node) in tree().0.into_iter().rev() {
            other.add(&path, node).unwrap();
        }
        assert_eq!(image.pack(&tree()).unwrap(), image.pack(&other).unwrap());
        let named = Image { name: "docker.io/x/y:2", ..image };
        assert_ne!(image.pack(&tree()).unwrap(), named.pack(&tree()).unwrap());
    }

    #[test]
    fn paths_that_lead_elsewhere_or_through_files_are_refused() {
        let mut tree = Tree::default();
        for path in ["", "/", "a//b", "../a", "a/./b"] {
            assert!(tree.file(path, Vec::new(), 0).is_err(), "{path}");
        }
        tree.file("a", Vec::new(), 0).unwrap();
        assert!(tree.file("a/b", Vec::new(), 0).is_err());
        tree.file(&"x".repeat(101), Vec::new(), 0).unwrap();
        assert!(tree.tar().is_err());
    }
}
