{{- /* What pods and containers have in common. */ -}}

{{- /* The security context of a pod: the restricted level of the Pod Security Standards. */ -}}
{{- define "vitriton.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.runAsUser }}
runAsGroup: {{ .Values.runAsUser }}
# Volumes and Secrets belong to this group; of a large volume, only the root is looked at
fsGroup: {{ .Values.runAsUser }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "vitriton.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* Kubernetes' own default is five minutes, for pods that keep something. Takes {root: $, more: TOLERATIONS}. */ -}}
{{- define "vitriton.tolerations" -}}
tolerations:
  {{- with .more }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- range list "not-ready" "unreachable" }}
  - {key: node.kubernetes.io/{{ . }}, operator: Exists, effect: NoExecute, tolerationSeconds: {{ $.root.Values.nodeLossSeconds }}}
  {{- end }}
{{- end }}

{{- /* The container that exports, in a pod of the servers or in that of the Job. */ -}}
{{- define "vitriton.exportContainer" -}}
- name: export
  image: {{ include "vitriton.image" (dict "root" . "image" .Values.export.image) | quote }}
  imagePullPolicy: {{ .Values.export.image.pullPolicy }}
  args:
    - vitriton
    - export
    - {{ .Values.model.id | quote }}
    - --repository=/data/models
    - --skip-existing
    {{- with .Values.model.revision }}
    - {{ printf "--revision=%s" . | quote }}
    {{- end }}
    {{- with .Values.model.name }}
    - {{ printf "--name=%s" . | quote }}
    {{- end }}
    - --precision={{ .Values.model.precision }}
    - --towers={{ .Values.model.towers }}
    - --pooling={{ .Values.model.pooling }}
    - --device={{ .Values.model.device }}
    {{- range .Values.model.extraArgs }}
    - {{ . | quote }}
    {{- end }}
  {{- $hub := .Values.export.hub }}
  {{- if or $hub.endpoint $hub.offline .Values.export.hfToken.secret .Values.export.extraEnv }}
  env:
    {{- with $hub.endpoint }}
    - {name: HF_ENDPOINT, value: {{ . | quote }}}
    {{- end }}
    {{- if $hub.offline }}
    - {name: HF_HUB_OFFLINE, value: "1"}
    {{- end }}
    {{- if .Values.export.hfToken.secret }}
    # A file, so that the token does not appear among the container's variables
    - {name: HF_TOKEN_PATH, value: /run/secrets/hf/token}
    {{- end }}
    {{- with .Values.export.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
  securityContext:
    {{- include "vitriton.containerSecurity" . | nindent 4 }}
  resources:
    {{- toYaml .Values.export.resources | nindent 4 }}
  volumeMounts:
    - {name: models, mountPath: /data}
    - {name: export-tmp, mountPath: /tmp}
    - {name: hub, mountPath: /var/cache/huggingface}
    {{- if .Values.export.hfToken.secret }}
    - {name: hf-token, mountPath: /run/secrets/hf, readOnly: true}
    {{- end }}
    {{- if .Values.export.checkpoints }}
    - {name: checkpoints, mountPath: /checkpoints, readOnly: true}
    {{- end }}
{{- end }}

{{- define "vitriton.exportVolumes" -}}
- name: export-tmp
  emptyDir: {sizeLimit: 1Gi}
- name: hub
  emptyDir: {sizeLimit: {{ .Values.export.hub.cacheSize }}}
{{- with .Values.export.hfToken.secret }}
- name: hf-token
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items: [{key: {{ $.Values.export.hfToken.key }}, path: token}]
{{- end }}
{{- with .Values.export.checkpoints }}
- name: checkpoints
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* The volume with the models: nothing where the server's image has them. */ -}}
{{- define "vitriton.modelsVolume" -}}
- name: models
  {{- if eq .Values.repository.volume.type "claim" }}
  persistentVolumeClaim: {claimName: {{ include "vitriton.claim" . }}}
  {{- else }}
  emptyDir: {sizeLimit: {{ .Values.repository.volume.size }}}
  {{- end }}
{{- end }}
