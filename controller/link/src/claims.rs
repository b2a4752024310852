//! What a service-account token says of itself. Nothing here verifies it: the API server does.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// The claims of a token that concern us, not verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// When it ends.
    pub expires: Option<SystemTime>,
    /// When it was made.
    pub issued: Option<SystemTime>,
    /// Whom it is for.
    pub audiences: Vec<String>,
    /// The namespace of its service account.
    pub namespace: Option<String>,
    /// The pod that it is bound to: name and UID.
    pub pod: Option<(String, String)>,
}

#[derive(Deserialize)]
struct Payload {
    exp: Option<f64>,
    iat: Option<f64>,
    #[serde(default)]
    aud: Audience,
    #[serde(rename = "kubernetes.io", default)]
    kubernetes: Kubernetes,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Default for Audience {
    fn default() -> Audience {
        Audience::Several(Vec::new())
    }
}

#[derive(Default, Deserialize)]
struct Kubernetes {
    namespace: Option<String>,
    pod: Option<Bound>,
}

#[derive(Deserialize)]
struct Bound {
    name: String,
    uid: String,
}

impl Claims {
    /// The claims of a JSON Web Token. `None`: it is none.
    pub fn read(token: &str) -> Option<Claims> {
        let mut parts = token.trim().split('.');
        let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
        let payload: Payload = serde_json::from_slice(&bytes).ok()?;
        Some(Claims {
            expires: payload.exp.and_then(time),
            issued: payload.iat.and_then(time),
            audiences: match payload.aud {
                Audience::One(one) => vec![one],
                Audience::Several(several) => several,
            },
            namespace: payload.kubernetes.namespace,
            pod: payload.kubernetes.pod.map(|pod| (pod.name, pod.uid)),
        })
    }
}

/// Seconds since 1970, perhaps with a fraction.
fn time(seconds: f64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(payload: &str) -> String {
        format!("eyJhbGciOiJSUzI1NiJ9.{}.c2lnbmF0dXJl", URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn the_claims_of_a_pods_token_are_read() {
        let payload = r#"{"aud":["l7mp-operator"],"exp":1700000600,"iat":1700000000,"iss":"https://kubernetes",
            "kubernetes.io":{"namespace":"default","pod":{"name":"gw","uid":"u-1"},"serviceaccount":{"name":"x","uid":"y"}},
            "sub":"system:serviceaccount:default:x"}"#;
        let claims = Claims::read(&(token(payload) + "\n")).unwrap();
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!((claims.issued, claims.expires), (at(1_700_000_000), at(1_700_000_600)));
        assert_eq!(claims.audiences, ["l7mp-operator"]);
        assert_eq!(claims.namespace.as_deref(), Some("default"));
        assert_eq!(claims.pod, Some(("gw".to_owned(), "u-1".to_owned())));
    }

    #[test]
    fn what_is_no_token_has_no_claims() {
        for text in ["", "a.b", "a.b.c", "a.e30.c.d", &token("[]"), &token(r#"{"exp":"soon"}"#), "..", "\u{0}.\u{0}.x"]
        {
            assert_eq!(Claims::read(text), None, "{text}");
        }
        assert_eq!(Claims::read(&token("{}")), Some(Claims::default()));
        assert_eq!(Claims::read(&token(r#"{"exp":-1,"iat":1e300}"#)), Some(Claims::default()));
    }
}
