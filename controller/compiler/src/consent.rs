//! Who may select or refer to what is in another namespace.

use l7mp_crds::ObjectMeta;

/// The annotation of pods and objects that lists the namespaces they accept, separated by commas; `*` is all.
pub const ACCEPT_FROM: &str = "l7mp.io/accept-from";

/// Whether a pod or an object accepts to be selected by, or referred to from, objects of a namespace.
pub fn accepts(meta: &ObjectMeta, from: &str) -> bool {
    let listed = |text: &String| text.split(',').map(str::trim).any(|listed| listed == "*" || listed == from);
    meta.namespace() == from || meta.annotations.get(ACCEPT_FROM).is_some_and(listed)
}

/// What to do where the consent is missing.
pub(crate) fn advice(whom: &str, from: &str) -> String {
    format!("annotate {whom} with {ACCEPT_FROM}: \"{from}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_accepts_itself_and_those_that_it_lists() {
        for (annotation, from, expected) in [
            (None, "home", true),
            (None, "away", false),
            (Some("away"), "away", true),
            (Some("other, away"), "away", true),
            (Some("*"), "away", true),
            (Some("awa"), "away", false),
            (Some(""), "away", false),
            (Some("other"), "home", true),
        ] {
            let mut meta = ObjectMeta { namespace: Some("home".to_owned()), ..ObjectMeta::default() };
            meta.annotations.extend(annotation.map(|text| (ACCEPT_FROM.to_owned(), text.to_owned())));
            assert_eq!(accepts(&meta, from), expected, "{annotation:?} {from}");
        }
    }
}
