//! Routes, and the clusters along them.

use l7mp_api::config::{Cluster, Ref, Route};
use l7mp_crds::RouteSpec;

use super::{Build, Origin, Reason, lower};
use crate::object::ObjectId;
use crate::resolve::Found;

/// A stage of a route whose cluster is known to be usable.
enum Stage<'a> {
    Named(Origin, ObjectId, Found<'a>),
    Inline(Origin, &'a l7mp_crds::Cluster),
}

impl<'w> Build<'w> {
    /// A route, or what is wrong with it, for the rules that use it. Its clusters become part of the
    /// document only when all of them are usable.
    pub(super) fn route(&mut self, at: &Origin, name: String, spec: &'w RouteSpec) -> Result<Route, String> {
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
    fn chain(&mut self, at: &Origin, chain: &str, items: &'w [l7mp_crds::ChainItem]) -> Result<Vec<Stage<'w>>, String> {
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

    fn stage(
        &mut self,
        at: &Origin,
        ref_key: &str,
        text: Option<&str>,
        inline_key: &str,
        inline: Option<&'w l7mp_crds::Cluster>,
    ) -> Result<Stage<'w>, String> {
        if let Some(cluster) = inline {
            return Ok(Stage::Inline(at.join(inline_key), cluster));
        }
        let found = self.resolver.stage(text.unwrap_or_default(), &at.object).and_then(|(id, found)| {
            self.usable(&id, &found)?;
            Ok(Stage::Named(at.join(ref_key), id, found))
        });
        found.map_err(|fault| {
            self.report(&at.join(ref_key), fault.reason, fault.in_route());
            fault.message
        })
    }

    fn add_stage(&mut self, stage: Stage<'w>) -> Ref<Cluster> {
        Ref::Name(match stage {
            Stage::Inline(origin, cluster) => self.add_inline_cluster(origin, cluster),
            Stage::Named(at, id, found) => {
                let name = match found {
                    Found::Target(target) => self.add_target(&id, target),
                    Found::VirtualService(service) => self.add_virtual_service(&id, service),
                    Found::Service(service, port) => self.add_service(&id, service, port),
                };
                if let Some(message) = self.degraded.get(&name).map(|message| format!("{id}: {message}")) {
                    self.report(&at, Reason::Degraded, message);
                }
                name
            }
        })
    }
}
