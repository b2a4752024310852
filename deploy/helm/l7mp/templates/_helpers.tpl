{{/* Labels of every object. */}}
{{- define "l7mp.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: l7mp
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* Labels of pods: none that changes with a version, which would restart gateways for nothing. */}}
{{- define "l7mp.podLabels" -}}
app.kubernetes.io/name: l7mp
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The image of all programs. */}}
{{- define "l7mp.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Where agents find the operator. */}}
{{- define "l7mp.operatorAddress" -}}
l7mp-operator.{{ .Release.Namespace }}.svc:7800
{{- end }}

{{/* What a container may do: nothing beyond its own process. */}}
{{- define "l7mp.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
{{- end }}

{{/* Where pods may run. Takes a component's values. */}}
{{- define "l7mp.placement" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Combinations that no schema can judge. */}}
{{- define "l7mp.check" -}}
{{- if and .Values.networkPolicy.enabled .Values.ingress.enabled (not .Values.networkPolicy.nodeIpBlocks) }}
{{- fail "networkPolicy.nodeIpBlocks is empty: the gateways are on the nodes' network, where the policy would cut them off from the operator. Name the nodes' addresses, such as --set networkPolicy.nodeIpBlocks={10.0.0.0/16}, or set ingress.enabled=false" }}
{{- end }}
{{- if hasKey .Values.ingress.podLabels "app" }}
{{- fail "ingress.podLabels.app: the label app of the gateways is always l7mp-ingress; take another label" }}
{{- end }}
{{- end }}
