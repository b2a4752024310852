//! The Kubernetes kinds of l7mp: [`VirtualService`], [`Target`], [`Route`] and [`Rule`] (group
//! `l7mp.io`, version `v1`), and the parts of [`Pod`], [`Service`] and
//! [`EndpointSlice`] that the controller reads.
//!
//! The shapes are structural: a protocol is the one key of a map (`{UDP: {port: 9001}}`), and where
//! an object may be named or written inline there are two keys (`destinationRef` | `destination`)
//! instead of one that takes a string or an object. Only `match` keeps what it does not know.
//! Fields that the original system documented keep their spelling (`retry_on`); new ones are
//! camelCase.
//!
//! ```
//! use l7mp_crds::{ListenerSpec, VirtualService};
//!
//! let object: VirtualService = serde_saphyr::from_str(
//!     r#"
//! apiVersion: l7mp.io/v1
//! kind: VirtualService
//! metadata: {name: echo}
//! spec:
//!   selector: {matchLabels: {app: gateway}}
//!   listener:
//!     spec: {UDP: {port: 9001}}
//!     rules: [{action: {route: {destination: {spec: {Echo: {}}}}}}]
//! "#,
//! )
//! .unwrap();
//! assert!(matches!(object.spec.listener.spec, ListenerSpec::Udp(ref udp) if udp.port == 9001));
//! ```

#![forbid(unsafe_code)]
#![allow(clippy::duplicated_attributes, reason = "printer columns of one kind have types in common")]

mod crd;
mod duration;
mod endpoint_slice;
mod meta;
mod pod;
mod route;
mod rule;
mod rules;
mod selector;
mod service;
mod status;
mod stream;
mod target;
mod virtual_service;

pub use crd::{CrdFile, helm, yaml};
pub use duration::Millis;
pub use endpoint_slice::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice, ObjectRef, SERVICE_NAME_LABEL};
pub use meta::{DEFAULT_NAMESPACE, ObjectMeta, Resource};
pub use pod::{
    Container, ContainerState, ContainerStatus, PROXY_CONTAINER, Pod, PodCondition, PodIp, PodSpec, PodStatus, Running,
    Terminated, Waiting,
};
pub use route::{ChainItem, Retry, RetryOn, Route, RouteSpec};
pub use rule::{Action, InlineRule, Rewrite, Rule, RuleSpec};
pub use selector::{Operator, Requirement, Selector};
pub use service::{Service, ServicePort, ServiceSpec};
pub use status::{Condition, ConditionStatus, FAILING_MAX, FailingPod, Status};
pub use stream::{Framing, Payload, UnixType};
pub use target::{
    Bind, Cluster, ClusterEndpoint, ClusterSpec, EndpointSpec, LoadBalancer, Nothing, Policy, Target, TargetSpec,
    TcpCluster, UdpCluster, UnixCluster, WebSocketCluster,
};
pub use virtual_service::{
    Connect, Listener, ListenerMode, ListenerOptions, ListenerSpec, TcpListener, UdpListener, UnixListener,
    VirtualService, VirtualServiceSpec, WebSocketListener,
};

/// The four kinds as the API server has them, for a Kubernetes client: `kube::Api<kinds::Target>`.
///
/// The other parts of the project work on [`Resource`]s, which have no more than what is read of them; each kind
/// turns into one (`Target::from(kinds::Target)`).
pub mod kinds {
    pub use crate::route::RouteKind as Route;
    pub use crate::rule::RuleKind as Rule;
    pub use crate::target::TargetKind as Target;
    pub use crate::virtual_service::VirtualServiceKind as VirtualService;
}

/// The API group and version of the four kinds.
pub const API_VERSION: &str = "l7mp.io/v1";
