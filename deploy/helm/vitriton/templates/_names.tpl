{{- /* Names and labels. Those of a component take {root: $, component: NAME}. */ -}}

{{- define "vitriton.name" -}}
{{ .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "vitriton.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "vitriton.name" .) .Release.Name -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name (include "vitriton.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "vitriton.selector" -}}
app.kubernetes.io/name: {{ include "vitriton.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "vitriton.labels" -}}
{{ include "vitriton.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Those of pods: none that changes with the chart alone, as pods would be replaced for it. */ -}}
{{- define "vitriton.podLabels" -}}
{{ include "vitriton.selector" . }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "vitriton.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "vitriton.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{- define "vitriton.claim" -}}
{{ .Values.repository.volume.existingClaim | default (printf "%s-models" (include "vitriton.fullname" .)) }}
{{- end }}

{{- /* The name that clients use, as `vitriton export` derives it. */ -}}
{{- define "vitriton.model" -}}
{{ .Values.model.name | default (base .Values.model.id) }}
{{- end }}

{{- /* An image by its tag, its digest, or both. Takes {root: $, image: VALUES}. */ -}}
{{- define "vitriton.image" -}}
{{- $tag := .image.tag | default .root.Chart.AppVersion -}}
{{ .image.repository }}:{{ $tag }}{{ with .image.digest }}@{{ . }}{{ end }}
{{- end }}
