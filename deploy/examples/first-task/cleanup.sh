#!/bin/sh
# Removes what the first task has made, and waits until it is gone: the gateway's listener first, so that nothing new
# comes in, the pods last. It can be run again.
set -eu
# Where the kinds are gone, so are their objects.
if kubectl api-resources --api-group=l7mp.io --output=name | grep -q .; then
    kubectl delete --namespace default --ignore-not-found virtualservices.l7mp.io gateway-vsvc transcoder-vsvc
    kubectl delete --namespace default --ignore-not-found targets.l7mp.io udp-cluster websocket-cluster uds-cluster
fi
kubectl delete --namespace default --ignore-not-found --cascade=foreground \
    deployments.apps transcoder-deployment worker-deployment
