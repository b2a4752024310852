//! What the admin API answers. All of it is JSON; times are in the unit that the field's name ends with.
//!
//! | request | answer |
//! |---|---|
//! | `GET /api/v1/info` | [`Info`] |
//! | `GET /api/v1/config` | [`ConfigAnswer`] |
//! | `PUT /api/v1/config` | [`Applied`], or 422 and [`Errors`] |
//! | `GET /api/v1/sessions` | [`SessionPage`] |
//! | `GET /api/v1/sessions/{name}` | [`Session`] |
//! | `POST /api/v1/drain` | [`Draining`] |
//! | any other failure | [`Errors`] with one problem |

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::problem::Problem;

/// `GET /api/v1/info`: what runs, and which configuration it has adopted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// Version of the software, `0.1.0`.
    pub version: String,
    /// Random at each start. Another one means: a new process, whose configuration must be pushed again.
    pub instance: String,
    /// Counts the adopted configurations from 1; 0 before the first.
    pub config_version: u64,
    /// Where the adopted configuration comes from.
    pub config_source: ConfigSource,
    /// Release of the kernel, as `uname -r` prints it.
    pub kernel: String,
    /// What the engine found in the kernel: `io_uring`, `gro`, `gso`, ...
    pub features: Vec<String>,
    /// Number of worker threads.
    pub workers: usize,
    /// Bounds of this process by name, `buffers_per_worker: 4096`.
    pub limits: BTreeMap<String, u64>,
    /// No new sessions are taken.
    pub draining: bool,
    /// Process id.
    pub pid: u32,
    /// Since the start of the process.
    pub uptime_seconds: u64,
    /// Sessions that live now, of all workers.
    #[serde(default)]
    pub sessions: u64,
    /// Clusters to which a connection was refused within the last minute, each with its path in the adopted document
    /// and what the kernel said; at most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failing: Vec<Problem>,
}

/// Where an adopted configuration comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConfigSource {
    /// None is adopted yet.
    #[default]
    None,
    /// `--config`; SIGHUP reads it again.
    File,
    /// `PUT /api/v1/config`; SIGHUP is refused.
    Api,
}

/// `PUT /api/v1/config`, adopted by every worker (or, with `?dry_run=true`, found to be adoptable).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The version that is adopted now.
    pub version: u64,
    /// False: the document is the one that was adopted already, and so is the version.
    pub changed: bool,
    /// What is legal and perhaps not meant.
    #[serde(default)]
    pub warnings: Vec<Problem>,
}

/// Why a request was refused; nothing has changed. The body of 422 and of every other failure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errors {
    /// Every error at once, each with its path in the document (empty: not about a place in it).
    pub errors: Vec<Problem>,
}

/// `GET /api/v1/config`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConfigAnswer {
    /// The adopted version; also the `ETag`.
    pub version: u64,
    /// The adopted document, in its canonical spelling.
    pub config: Config,
    /// What is legal and perhaps not meant.
    #[serde(default)]
    pub warnings: Vec<Problem>,
}

/// `POST /api/v1/drain`: draining has begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining {
    /// Sessions that live still, of all workers.
    pub sessions: u64,
}

/// `GET /api/v1/sessions[?listener=&limit=&cursor=]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SessionPage {
    /// At most `limit` of them, in no order that means anything.
    pub sessions: Vec<Session>,
    /// `cursor` of the next request; `None`: this is the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// One session: a ring source -> ingress -> destination -> egress -> source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// `UDP:127.0.0.1:41020-127.0.0.1:9001-7`
    pub name: String,
    /// The listener where it entered.
    pub listener: String,
    /// Number of the worker that has it.
    pub worker: usize,
    /// How far it is.
    pub status: SessionStatus,
    /// What rules see: `{name, IP: {src_addr, dst_addr}, UDP: {src_port, dst_port}, ...}`, rewrites applied.
    pub metadata: serde_json::Value,
    /// The client's side; its cluster is empty.
    pub source: Stage,
    /// Where the chain ends.
    pub destination: Stage,
    /// On the way to the destination, in order.
    #[serde(default)]
    pub ingress: Vec<Stage>,
    /// On the way back, in order.
    #[serde(default)]
    pub egress: Vec<Stage>,
    /// Since the first message.
    pub age_ms: u64,
    /// Since the last message in any direction.
    pub idle_ms: u64,
}

/// How far a session is; the original's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SessionStatus {
    /// Its stages are being opened.
    #[default]
    Init,
    /// The ring is closed.
    Connected,
    /// A stage broke and is opened again.
    Disconnected,
    /// It ends: queued data leaves.
    Finalizing,
    /// It has ended.
    Destroyed,
}

/// One link of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Name of the cluster; empty for the source and for inline clusters without a name.
    #[serde(default)]
    pub cluster: String,
    /// The peer: address and port, or filename; empty inside the proxy (Echo).
    #[serde(default)]
    pub endpoint: String,
    /// `UDP`, `TCP`, `WebSocket`, `UnixDomainSocket`, `Echo`, `Discard`.
    pub protocol: String,
    /// How far it is.
    pub status: StageStatus,
    /// Failed attempts to open it since it last worked.
    #[serde(default)]
    pub retries: u32,
}

/// How far a stage is; the original's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum StageStatus {
    /// Being opened for the first time.
    #[default]
    Init,
    /// The connection stands; its handshake may be under way.
    Connected,
    /// Messages flow.
    Ready,
    /// Broken, and not tried again.
    Disconnected,
    /// Waiting for the next attempt.
    Retrying,
    /// The peer has sent its end.
    End,
    /// Queued data leaves, then it closes.
    Finalizing,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_reads_back() {
        let stage = Stage { protocol: "UDP".to_owned(), status: StageStatus::Ready, ..Stage::default() };
        let session = Session {
            name: "UDP:127.0.0.1:41020-127.0.0.1:9001-7".to_owned(),
            listener: "in".to_owned(),
            worker: 1,
            status: SessionStatus::Connected,
            metadata: serde_json::json!({"UDP": {"src_port": 41020}}),
            source: stage.clone(),
            destination: stage,
            ingress: Vec::new(),
            egress: Vec::new(),
            age_ms: 5,
            idle_ms: 1,
        };
        let text = serde_json::to_string(&session).unwrap();
        assert!(text.contains(r#""status":"CONNECTED""#) && text.contains(r#""status":"READY""#), "{text}");
        assert_eq!(serde_json::from_str::<Session>(&text).unwrap(), session);
    }

    #[test]
    fn a_configuration_answer_reads_back() {
        let config = Config::read("clusters: [{name: echo, spec: {Echo: }}]").unwrap();
        let answer = ConfigAnswer { version: 3, config, warnings: vec![Problem::new("a", "b")] };
        let text = serde_json::to_string(&answer).unwrap();
        assert_eq!(serde_json::from_str::<ConfigAnswer>(&text).unwrap(), answer);
    }
}
