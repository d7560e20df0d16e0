{{- /* Combinations of values that cannot work. The schema checks each value by itself. */ -}}
{{- define "vitriton.checks" -}}
{{- $values := .Values -}}
{{- $repository := $values.repository -}}
{{- $claim := eq $repository.volume.type "claim" -}}

{{- if not (regexMatch "^[a-z][-a-z0-9]*$" (include "vitriton.fullname" .)) }}
{{- fail (printf "everything would be named %s, and the name of a Service begins with a letter and has no dot: set fullnameOverride" (include "vitriton.fullname" .)) }}
{{- end }}

{{- if and (eq $repository.source "export") (eq $values.export.runIn "job") (not $claim) }}
{{- fail "export.runIn is job, and repository.volume.type is pod: the Job's pod and the servers would have a volume each. Set repository.volume.type=claim, or export.runIn=init" }}
{{- end }}
{{- if and (eq $repository.source "existing") (not $repository.volume.existingClaim) }}
{{- fail "repository.source is existing, and repository.volume.existingClaim is empty: set it to the claim that has the models" }}
{{- end }}
{{- if and $repository.volume.existingClaim (not $claim) }}
{{- fail (printf "repository.volume.existingClaim is %s, and repository.volume.type is pod: set repository.volume.type=claim" $repository.volume.existingClaim) }}
{{- end }}
{{- if and (eq $repository.source "image") $claim }}
{{- fail "repository.source is image, and repository.volume.type is claim: models in the image need no volume, so leave repository.volume.type at pod" }}
{{- end }}
{{- if and (eq $repository.source "download") (not $values.download.from) }}
{{- fail "repository.source is download, and download.from is empty: set it to the remote and the path, such as s3:bucket/models" }}
{{- end }}
{{- if and (eq $repository.source "download") $claim }}
{{- fail "repository.source is download, and repository.volume.type is claim: a download replaces files one by one, which servers on the same volume would see. Leave repository.volume.type at pod" }}
{{- end }}
{{- if and (hasPrefix "/checkpoints/" $values.model.id) (eq $repository.source "export") (not $values.export.checkpoints) }}
{{- fail (printf "model.id is %s, and export.checkpoints is empty: set it to the source of the volume with that folder" $values.model.id) }}
{{- end }}

{{- if and (not (kindIs "invalid" $values.replicas)) (ne $values.autoscaling.kind "none") }}
{{- fail (printf "replicas is %v, and autoscaling.kind is %s, which sets the number of servers: leave replicas empty, and use autoscaling.minReplicas" $values.replicas $values.autoscaling.kind) }}
{{- end }}
{{- if gt (int $values.autoscaling.minReplicas) (int $values.autoscaling.maxReplicas) }}
{{- fail (printf "autoscaling.minReplicas is %v, above autoscaling.maxReplicas (%v)" $values.autoscaling.minReplicas $values.autoscaling.maxReplicas) }}
{{- end }}
{{- $several := or (gt (int $values.replicas) 1) (ne $values.autoscaling.kind "none") }}
{{- if and $several $claim (not $repository.volume.existingClaim) (has "ReadWriteOncePod" $repository.volume.accessModes) }}
{{- fail "repository.volume.accessModes has ReadWriteOncePod, and there is more than one server: use ReadWriteMany" }}
{{- end }}

{{- if and (eq $values.model.device "gpu") (not $values.gpu.count) }}
{{- fail "model.device is gpu, and gpu.count is 0: the model would not load; set gpu.count=1, or model.device=auto" }}
{{- end }}
{{- if and $values.gpu.count (eq $values.model.device "cpu") }}
{{- fail (printf "gpu.count is %v, and model.device is cpu: the model would not use them" $values.gpu.count) }}
{{- end }}

{{- $memory := dig "limits" "memory" "" $values.server.resources }}
{{- if $memory }}
{{- $left := sub (include "vitriton.bytes" $memory | int64) (add (include "vitriton.bytes" $values.server.sharedMemory | int64) (include "vitriton.bytes" $values.server.tmp | int64)) }}
{{- if lt $left 1073741824 }}
{{- fail (printf "server.resources.limits.memory is %v, and server.sharedMemory (%v) and server.tmp (%v) are part of it: less than 1Gi is left for weights and batches" $memory $values.server.sharedMemory $values.server.tmp) }}
{{- end }}
{{- end }}

{{- $needed := add $values.shutdown.preStopSeconds $values.shutdown.exitTimeoutSeconds 10 }}
{{- if and $values.shutdown.terminationGracePeriodSeconds (lt (int $values.shutdown.terminationGracePeriodSeconds) (int $needed)) }}
{{- fail (printf "shutdown.terminationGracePeriodSeconds is %v, and must be %d or more: preStopSeconds, exitTimeoutSeconds and 10 for the launcher" $values.shutdown.terminationGracePeriodSeconds $needed) }}
{{- end }}

{{- if and $values.tracing.url $values.networkPolicy.enabled (not $values.networkPolicy.egress) }}
{{- fail (printf "tracing.url is %s, and networkPolicy.egress is empty: no trace would leave the servers. Allow the collector's port: networkPolicy.egress=[{ports: [{port: 4318, protocol: TCP}]}]" $values.tracing.url) }}
{{- end }}

{{- range $kind := list "grpc" "http" }}
{{- $route := get $values.route $kind }}
{{- if and $route.enabled (not $route.parentRefs) }}
{{- fail (printf "route.%s.enabled is true, and route.%s.parentRefs is empty: name the gateway that takes the route" $kind $kind) }}
{{- end }}
{{- end }}
{{- if and $values.route.canary.service (not (or $values.route.grpc.enabled $values.route.http.enabled)) }}
{{- fail (printf "route.canary.service is %s, and there is no route that could share its requests: set route.grpc.enabled or route.http.enabled" $values.route.canary.service) }}
{{- end }}
{{- if and $values.gateway.enabled (not $values.gateway.secret) }}
{{- fail "gateway.enabled is true, and gateway.secret is empty: name a Secret with server.pem, server.key and tokens" }}
{{- end }}
{{- end }}
