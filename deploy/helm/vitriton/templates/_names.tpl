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
app.kubernetes.io/name: {{ include "vitriton.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- /* Each label once, whoever else sets it: those by which pods are selected come first. */ -}}
{{- define "vitriton.labels" -}}
{{- $own := include "vitriton.selector" . | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/version" .root.Chart.AppVersion -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .root.Release.Service -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_") -}}
{{ merge $own (.more | default dict) (.root.Values.commonLabels | default dict) | toYaml }}
{{- end }}

{{- /* Those of pods: none that changes with the chart alone, as pods would be replaced for it. */ -}}
{{- define "vitriton.podLabels" -}}
{{ merge (include "vitriton.selector" . | fromYaml) (.more | default dict) (.root.Values.commonLabels | default dict) | toYaml }}
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
