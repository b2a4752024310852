//! Routes, and the clusters along them.

use l7mp_api::config::{Cluster, Ref, Route};
use l7mp_crds::RouteSpec;

use super::report::Fault;
use super::{Build, Origin, Reason, lower};
use crate::object::{Kind, ObjectId};
use crate::reference;

/// A stage of a route whose cluster is known to be usable.
enum Stage<'a> {
    Target(ObjectId),
    Inline(Origin, &'a l7mp_crds::Cluster),
}

impl Build<'_> {
    /// A route, or what is wrong with it, for the rules that use it. Its clusters become part of the
    /// document only when all of them are usable.
    pub(super) fn route(&mut self, at: &Origin, name: String, spec: &RouteSpec) -> Result<Route, String> {
        let destination =
            self.stage(at, "destinationRef", spec.destination_ref.as_deref(), "destination", spec.destination.as_ref());
        let ingress = self.chain(at, "ingress", &spec.ingress);
        let egress = self.chain(at, "egress", &spec.egress);
        let (destination, ingress, egress) = (destination?, ingress?, egress?);
        Ok(Route {
            name,
            destination: self.add_stage(destination),
            ingress: ingress.into_iter().map(|stage| self.add_stage(stage)).collect(),
            egress: egress.into_iter().map(|stage| self.add_stage(stage)).collect(),
            retry: lower::retry(spec.retry.as_ref()),
        })
    }

    /// The stages of a chain. Every stage that is not usable is reported; the first one speaks for all.
    fn chain<'a>(
        &mut self,
        at: &Origin,
        chain: &str,
        items: &'a [l7mp_crds::ChainItem],
    ) -> Result<Vec<Stage<'a>>, String> {
        let stages: Vec<_> = items
            .iter()
            .enumerate()
            .map(|(index, item)| {
                let at = at.join(format!("{chain}[{index}]"));
                self.stage(&at, "clusterRef", item.cluster_ref.as_deref(), "cluster", item.cluster.as_ref())
            })
            .collect();
        stages.into_iter().collect()
    }

    fn stage<'a>(
        &mut self,
        at: &Origin,
        ref_key: &str,
        text: Option<&str>,
        inline_key: &str,
        inline: Option<&'a l7mp_crds::Cluster>,
    ) -> Result<Stage<'a>, String> {
        if let Some(cluster) = inline {
            return Ok(Stage::Inline(at.join(inline_key), cluster));
        }
        let text = text.unwrap_or_default();
        let found = reference::parse(text, Kind::Target, &at.object.namespace)
            .map_err(|error| Fault::new(Reason::InvalidReference, error.to_string()))
            .and_then(|id| self.usable_target(&id).map(|()| Stage::Target(id)));
        found.map_err(|fault| {
            let message = format!("{}: rules that use this route refuse their sessions", fault.message);
            self.report(&at.join(ref_key), fault.reason, message);
            fault.message
        })
    }

    fn add_stage(&mut self, stage: Stage<'_>) -> Ref<Cluster> {
        Ref::Name(match stage {
            Stage::Target(id) => self.add_target(&id),
            Stage::Inline(origin, cluster) => self.add_inline_cluster(origin, cluster),
        })
    }
}
