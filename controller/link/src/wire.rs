//! Between the messages of `proto/l7mp.proto` and the types that people read.

#[allow(missing_docs, clippy::all)]
pub(crate) mod proto {
    include!("proto/l7mp.v1.rs");
}

use l7mp_api::Problem;

use crate::limits::{MESSAGE_BYTES_MAX, NAME_BYTES_MAX, PROBLEMS_MAX};
use crate::{Origin, Report, Version};
use proto::from_agent::Message as FromAgent;

impl From<Version> for proto::Version {
    fn from(version: Version) -> proto::Version {
        let Version { epoch, term, sequence } = version;
        proto::Version { epoch, term, sequence }
    }
}

impl From<proto::Version> for Version {
    fn from(version: proto::Version) -> Version {
        let proto::Version { epoch, term, sequence } = version;
        Version { epoch, term, sequence }
    }
}

impl From<Origin> for proto::Origin {
    fn from(origin: Origin) -> proto::Origin {
        let Origin { path, object, at } = origin;
        proto::Origin { path, object, at }
    }
}

impl From<proto::Origin> for Origin {
    fn from(origin: proto::Origin) -> Origin {
        let proto::Origin { path, object, at } = origin;
        Origin { path, object, at }
    }
}

/// What an agent reports, within the bounds of a message.
#[cfg(feature = "client")]
pub(crate) fn report_to_wire(report: Report) -> FromAgent {
    match report {
        Report::Applied { version, warnings } => {
            FromAgent::Applied(proto::Applied { version: Some(version.into()), warnings: problems_to_wire(warnings) })
        }
        Report::Refused { version, errors } => {
            FromAgent::Refused(proto::Refused { version: Some(version.into()), errors: problems_to_wire(errors) })
        }
        Report::Trouble(message) => FromAgent::Trouble(proto::Trouble { message: cut(message, MESSAGE_BYTES_MAX) }),
    }
}

/// `None`: it is no report.
#[cfg(feature = "server")]
pub(crate) fn report_from_wire(message: FromAgent) -> Option<Report> {
    match message {
        FromAgent::Applied(proto::Applied { version, warnings }) => {
            Some(Report::Applied { version: version?.into(), warnings: problems_from_wire(warnings) })
        }
        FromAgent::Refused(proto::Refused { version, errors }) => {
            Some(Report::Refused { version: version?.into(), errors: problems_from_wire(errors) })
        }
        FromAgent::Trouble(proto::Trouble { message }) => Some(Report::Trouble(cut(message, MESSAGE_BYTES_MAX))),
        FromAgent::Hello(_) | FromAgent::Token(_) => None,
    }
}

#[cfg(feature = "client")]
fn problems_to_wire(problems: Vec<Problem>) -> Vec<proto::Problem> {
    let left_out = problems.len().saturating_sub(PROBLEMS_MAX);
    // The last place is for how many have none.
    let shown = if left_out == 0 { PROBLEMS_MAX } else { PROBLEMS_MAX - 1 };
    let more = (left_out > 0).then(|| Problem::new("", format!("{} more problems are not shown", left_out + 1)));
    problems
        .into_iter()
        .take(shown)
        .chain(more)
        .map(|problem| proto::Problem {
            path: cut(problem.path, NAME_BYTES_MAX),
            message: cut(problem.message, MESSAGE_BYTES_MAX),
        })
        .collect()
}

#[cfg(feature = "server")]
fn problems_from_wire(problems: Vec<proto::Problem>) -> Vec<Problem> {
    let problem = |problem: proto::Problem| {
        Problem::new(cut(problem.path, NAME_BYTES_MAX), cut(problem.message, MESSAGE_BYTES_MAX))
    };
    problems.into_iter().take(PROBLEMS_MAX).map(problem).collect()
}

/// The first bytes of a text, whole characters.
pub(crate) fn cut(mut text: String, bytes_max: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes_max));
    text
}

#[cfg(all(test, feature = "client", feature = "server"))]
mod tests {
    use super::*;

    #[test]
    fn reports_come_back_as_they_were() {
        let version = Version { epoch: u64::MAX, term: 2, sequence: 3 };
        for report in [
            Report::Applied { version, warnings: vec![Problem::new("a", "b")] },
            Report::Refused { version, errors: Vec::new() },
            Report::Trouble("it is gone".to_owned()),
        ] {
            assert_eq!(report_from_wire(report_to_wire(report.clone())), Some(report));
        }
        assert_eq!(report_from_wire(FromAgent::Applied(proto::Applied::default())), None);
        assert_eq!(report_from_wire(FromAgent::Hello(proto::Hello::default())), None);
    }

    #[test]
    fn a_report_has_an_end() {
        use prost::Message;
        let problem = Problem::new("ä".repeat(5_000), "x".repeat(100_000));
        let report = Report::Refused { version: Version::default(), errors: vec![problem; 300] };
        let message = proto::FromAgent { message: Some(report_to_wire(report)) };
        assert!(message.encoded_len() <= crate::limits::FROM_AGENT_BYTES_MAX, "{}", message.encoded_len());
        let Some(FromAgent::Refused(refused)) = message.message else { panic!("{message:?}") };
        assert_eq!(refused.errors.len(), PROBLEMS_MAX);
        assert_eq!(refused.errors.last().unwrap().message, "101 more problems are not shown");
    }
}
