{{/* config.toml: the values under `config` with what the chart itself knows, as TOML. */}}
{{- define "hubgate.config" -}}
{{- include "hubgate.check" . -}}
{{- $config := deepCopy .Values.config -}}
{{- range list "server" "upstream" "store" "spool" "policy" -}}
{{- if not (index $config .) }}{{ $_ := set $config . dict }}{{ end -}}
{{- end -}}
{{- if not $config.store.s3 }}{{ $_ := set $config.store "s3" dict }}{{ end -}}
{{- $_ := set $config.store "kind" "s3" -}}
{{- $_ := set $config.spool "dir" "/data/spool" -}}
{{- $_ := set $config.policy "dir" "/etc/hubgate/policy" -}}
{{- with .Values.secret.keys -}}
{{- if .s3SecretKey }}{{ $_ := set $config.store.s3 "secret_key_file" (printf "/run/secrets/hubgate/%s" .s3SecretKey) }}{{ end -}}
{{- if .hfToken }}{{ $_ := set $config.upstream "token_file" (printf "/run/secrets/hubgate/%s" .hfToken) }}{{ end -}}
{{- if .proxyPassword }}{{ $_ := set $config.upstream "proxy_password_file" (printf "/run/secrets/hubgate/%s" .proxyPassword) }}{{ end -}}
{{- end -}}
{{- with .Values.ca -}}
{{- if .upstreamKey }}{{ $_ := set $config.upstream "ca_file" (printf "/etc/hubgate/ca/%s" .upstreamKey) }}{{ end -}}
{{- if .s3Key }}{{ $_ := set $config.store.s3 "ca_file" (printf "/etc/hubgate/ca/%s" .s3Key) }}{{ end -}}
{{- end -}}
{{- if .Values.tls.existingSecret -}}
{{- $_ := set $config.server "tls" (dict "cert" "/etc/hubgate/tls/tls.crt" "key" "/etc/hubgate/tls/tls.key") -}}
{{- end -}}
{{- include "hubgate.toml" (dict "path" "" "table" $config) | trim -}}
{{- end -}}

{{/* What can be seen to be wrong here; the rest hubgate itself refuses at its start. */}}
{{- define "hubgate.check" -}}
{{- $config := .Values.config -}}
{{- $s3 := dig "store" "s3" dict $config | default dict -}}
{{- $upstream := dig "upstream" dict $config | default dict -}}
{{- $keys := .Values.secret.keys -}}
{{- $owned := dict
  "upstream.token" "a secret does not belong in a ConfigMap: name the Secret's key in secret.keys.hfToken"
  "upstream.token_file" "name the Secret's key in secret.keys.hfToken"
  "upstream.proxy_password" "a secret does not belong in a ConfigMap: name the Secret's key in secret.keys.proxyPassword"
  "upstream.proxy_password_file" "name the Secret's key in secret.keys.proxyPassword"
  "upstream.ca_file" "name the ConfigMap and its key in ca.configMap and ca.upstreamKey"
  "store.s3.secret_key" "a secret does not belong in a ConfigMap: name the Secret's key in secret.keys.s3SecretKey"
  "store.s3.secret_key_file" "name the Secret's key in secret.keys.s3SecretKey"
  "store.s3.ca_file" "name the ConfigMap and its key in ca.configMap and ca.s3Key"
  "store.kind" "replicas share a bucket: this chart has the S3 store only"
  "store.local" "replicas share a bucket: this chart has the S3 store only"
  "spool.dir" "the chart sets it to where it mounts the volume"
  "policy.dir" "the chart sets it to where it mounts the ConfigMap"
  "server.tls" "name the Secret in tls.existingSecret"
-}}
{{- range $key, $remedy := $owned -}}
{{- $at := $config -}}
{{- range splitList "." $key -}}
{{- $at = ternary (index ($at | default dict) .) nil (kindIs "map" ($at | default dict)) -}}
{{- end -}}
{{- if not (kindIs "invalid" $at) }}{{ fail (printf "config.%s: %s" $key $remedy) }}{{ end -}}
{{- end -}}
{{- if not $s3.bucket }}{{ fail "config.store.s3.bucket: name the bucket; it must exist" }}{{ end -}}
{{- if not (or $upstream.proxy $upstream.offline) -}}
{{- fail "config.upstream.proxy: name the egress proxy, http://host:port, or write \"none\"" -}}
{{- end -}}
{{- range $listener := list "listen" "admin_listen" -}}
{{- $address := index $config.server $listener -}}
{{- if and $address (not (regexMatch "^.+:[0-9]+$" $address)) -}}
{{- fail (printf "config.server.%s: %q: write host:port, such as 0.0.0.0:8080" $listener $address) -}}
{{- end -}}
{{- end -}}
{{- if and $s3.access_key $keys.s3AccessKey }}{{ fail "config.store.s3.access_key and secret.keys.s3AccessKey: set one of them" }}{{ end -}}
{{- if ne (empty $keys.s3SecretKey) (and (empty $s3.access_key) (empty $keys.s3AccessKey)) -}}
{{- fail "secret.keys.s3SecretKey goes with config.store.s3.access_key or secret.keys.s3AccessKey: set both, or neither for a role" -}}
{{- end -}}
{{- if and (or .Values.ca.upstreamKey .Values.ca.s3Key) (not .Values.ca.configMap) }}{{ fail "ca.configMap: name the ConfigMap with these keys" }}{{ end -}}
{{- if not .Values.secret.existingSecret -}}
{{- $values := .Values.secret.values -}}
{{- range $name, $key := $keys -}}
{{- if and $key (not (hasKey $values $key)) -}}
{{- fail (printf "secret.keys.%s: %q is not in secret.values: put it there, or name your own Secret in secret.existingSecret" $name $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A table as TOML: its own keys, then the tables in it. Null is as not written. */}}
{{- define "hubgate.toml" -}}
{{- $path := .path -}}
{{- range $key, $value := .table -}}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) }}
{{ $key }} = {{ include "hubgate.tomlValue" $value }}
{{- end -}}
{{- end -}}
{{- range $key, $value := .table -}}
{{- if and (kindIs "map" $value) $value }}
{{- $name := ternary $key (printf "%s.%s" $path $key) (empty $path) }}

[{{ $name }}]
{{- include "hubgate.toml" (dict "path" $name "table" $value) }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* JSON's strings are TOML's. Numbers come as floats, and every number of the configuration is whole. */}}
{{- define "hubgate.tomlValue" -}}
{{- if kindIs "string" . -}}
{{ toRawJson . }}
{{- else if kindIs "slice" . -}}
{{- $items := list -}}
{{- range . }}{{ $items = append $items (include "hubgate.tomlValue" .) }}{{ end -}}
[{{ join ", " $items }}]
{{- else if kindIs "map" . -}}
{{- $pairs := list -}}
{{- range $key, $value := . }}{{ $pairs = append $pairs (printf "%s = %s" $key (include "hubgate.tomlValue" $value)) }}{{ end -}}
{ {{ join ", " $pairs }} }
{{- else if kindIs "bool" . -}}
{{ . }}
{{- else -}}
{{ int64 . }}
{{- end -}}
{{- end -}}
