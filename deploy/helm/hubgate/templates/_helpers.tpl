{{/* Names. */}}

{{- define "hubgate.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* 47 characters leave room for what is put behind it: a CronJob's name may have 52. */}}
{{- define "hubgate.fullname" -}}
{{- $name := include "hubgate.name" . -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- .Values.fullnameOverride | default $full | trunc 47 | trimSuffix "-" -}}
{{- end -}}

{{- define "hubgate.selector" -}}
app.kubernetes.io/name: {{ include "hubgate.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "hubgate.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{ include "hubgate.selector" . }}
{{- end -}}

{{- define "hubgate.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "hubgate.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "hubgate.secret" -}}
{{- .Values.secret.existingSecret | default (include "hubgate.fullname" .) -}}
{{- end -}}

{{- define "hubgate.policyConfigMap" -}}
{{- .Values.policy.existingConfigMap | default (printf "%s-policy" (include "hubgate.fullname" .)) -}}
{{- end -}}

{{- define "hubgate.image" -}}
{{- $repository := required "image.repository: name your registry's image of hubgate; there is no public one" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{ $repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ $repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* The secrets that are files: the ones of secret.keys that are set, but for the access key. */}}
{{- define "hubgate.secretFiles" -}}
{{- $keys := .Values.secret.keys -}}
{{- list $keys.s3SecretKey $keys.hfToken $keys.proxyPassword | compact | uniq | toJson -}}
{{- end -}}

{{/* The port of a listen address. */}}
{{- define "hubgate.port" -}}
{{- regexFind "[0-9]+$" . -}}
{{- end -}}

{{/* The listener that the kubelet asks. */}}
{{- define "hubgate.probe" -}}
port: {{ ternary "admin" "http" (not (empty .Values.config.server.admin_listen)) }}
{{- if .Values.tls.existingSecret }}
scheme: HTTPS
{{- end }}
{{- end -}}

{{/* A duration of the configuration (2m, 1h 30m) in seconds. */}}
{{- define "hubgate.seconds" -}}
{{- $text := .text | replace " " "" -}}
{{- if not (regexMatch "^([0-9]+[hms])+$" $text) -}}
{{- fail (printf "config.%s: %q: write it in h, m and s, such as 2m or 90s" .key .text) -}}
{{- end -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9]+[hms]" $text -1 -}}
{{- $number := regexFind "[0-9]+" . | int64 -}}
{{- $sum = add $sum (mul $number (index (dict "h" 3600 "m" 60 "s" 1) (regexFind "[hms]" .))) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{/* A pod stopped: first the wait, then the drain, then at most 10 s for the manifest's last records. */}}
{{- define "hubgate.grace" -}}
{{- $drain := include "hubgate.seconds" (dict "key" "server.drain_timeout" "text" (.Values.config.server.drain_timeout | default "30s")) -}}
{{- $needed := add .Values.preStopSeconds (int64 $drain) 15 -}}
{{- $grace := .Values.terminationGracePeriodSeconds | default $needed | int64 -}}
{{- if lt $grace $needed -}}
{{- fail (printf "terminationGracePeriodSeconds: %d is too short: preStopSeconds %d, config.server.drain_timeout %s and 15 s make %d; transfers would be cut off" $grace (int64 .Values.preStopSeconds) .Values.config.server.drain_timeout $needed) -}}
{{- end -}}
{{- $grace -}}
{{- end -}}

{{/*
The emptyDir's limit: spool.max_size and 256 MiB. hubgate keeps to max_size by itself; the file system's rounding and its
lock files come on top, and the kubelet evicts a pod that passes its limit.
*/}}
{{- define "hubgate.spoolSize" -}}
{{- $text := .Values.config.spool.max_size | toString | replace " " "" -}}
{{- if not (regexMatch "^[0-9]+[kKMGT]i?B$" $text) -}}
{{- fail (printf "config.spool.max_size: %q: write a whole number and a unit, such as 50GB or 64GiB" $text) -}}
{{- end -}}
{{- $unit := regexFind "[kKMGT]i?B$" $text -}}
{{- $base := ternary 1024 1000 (contains "i" $unit) -}}
{{- $bytes := regexFind "^[0-9]+" $text | int64 -}}
{{- range until (index (dict "k" 1 "K" 1 "M" 2 "G" 3 "T" 4) (substr 0 1 $unit)) -}}
{{- $bytes = mul $bytes $base -}}
{{- end -}}
{{- printf "%dMi" (add (div (add $bytes 1048575) 1048576) 256) -}}
{{- end -}}
