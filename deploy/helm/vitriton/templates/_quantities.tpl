{{- /* A quantity of Kubernetes (8Gi, 512M, 1.5Gi, 1073741824), in bytes. */ -}}
{{- define "vitriton.bytes" -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- $number := regexFind "^[0-9.]+" (toString .) -}}
{{ mulf (float64 $number) (get $units (trimPrefix $number (toString .))) | int64 }}
{{- end }}
