{{- define "ippo.name" -}}
{{- default .Release.Name .Values.nameOverride | trunc 53 | trimSuffix "-" -}}
{{- end }}

{{- define "ippo.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "ippo.name" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is missing: with serviceAccount.create=false, name the ServiceAccount to use" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{- define "ippo.leaseName" -}}
{{- default (include "ippo.name" .) .Values.lease.name -}}
{{- end }}

{{- define "ippo.leaseNamespace" -}}
{{- default .Release.Namespace .Values.lease.namespace -}}
{{- end }}

{{- /* An image as given, or the release's own, with its variant: (list $ "ippo-trainer" .Values.stageImage "-cpu") */ -}}
{{- define "ippo.image" -}}
{{- $root := index . 0 -}}
{{- $own := printf "%s:%s%s" (index . 1) $root.Chart.AppVersion (index . 3) -}}
{{- with default (($root.Values.global).imageRegistry) $root.Values.registry -}}
{{- $own = printf "%s/%s" (trimSuffix "/" .) $own -}}
{{- end -}}
{{- default $own (index . 2) -}}
{{- end }}

{{- define "ippo.selector" -}}
app.kubernetes.io/name: ippo-operator
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "ippo.labels" -}}
{{ include "ippo.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: iterative-ppo
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* With more labels, or other values of some: (list $ .Values.podLabels) */ -}}
{{- define "ippo.labelsWith" -}}
{{- toYaml (mergeOverwrite (fromYaml (include "ippo.labels" (index . 0))) (index . 1)) -}}
{{- end }}

{{- /* In every namespace with runs. tests/integration/chart proves that each verb is used, and that no other one is. */ -}}
{{- define "ippo.rules" -}}
- apiGroups: [ippo.dev]
  resources: [iterativepporuns]
  verbs: [get, list, watch]
- apiGroups: [ippo.dev]
  resources: [iterativepporuns/status]
  verbs: [update]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, create, patch, delete]
- apiGroups: [""]
  resources: [events]
  verbs: [list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
- apiGroups: [apps]
  resources: [deployments, statefulsets]
  verbs: [get, list, watch, create, patch, delete]
# The StatefulSet controller makes claims; those of gateways that come no more are deleted once they are empty.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [list, delete]
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [list]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list]
{{- if .Values.rbac.gateways }}
# To ask the gateways of runs how many conversations there are.
- apiGroups: [""]
  resources: [services/proxy]
  verbs: [get]
{{- end }}
{{- end }}
