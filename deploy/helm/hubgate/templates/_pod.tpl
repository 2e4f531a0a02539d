{{/* What the gateway's and the sync job's pods have in common. */}}

{{- define "hubgate.podBase" -}}
serviceAccountName: {{ include "hubgate.serviceAccount" . }}
automountServiceAccountToken: false
# Kubernetes's variables for services would add to those that hubgate reads.
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
terminationGracePeriodSeconds: {{ include "hubgate.grace" . }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "hubgate.containerBase" -}}
image: {{ include "hubgate.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
volumeMounts:
  - name: config
    mountPath: /etc/hubgate/config
    readOnly: true
  - name: policy
    mountPath: /etc/hubgate/policy
    readOnly: true
  - name: spool
    mountPath: /data
  {{- if gt (len (include "hubgate.secretFiles" . | fromJsonArray)) 0 }}
  - name: secrets
    mountPath: /run/secrets/hubgate
    readOnly: true
  {{- end }}
  {{- if .Values.ca.configMap }}
  - name: ca
    mountPath: /etc/hubgate/ca
    readOnly: true
  {{- end }}
  {{- if .Values.tls.existingSecret }}
  - name: tls
    mountPath: /etc/hubgate/tls
    readOnly: true
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* The image's own variables beat the file, so the one that may differ is said again. */}}
{{- define "hubgate.env" -}}
- name: HUBGATE_SERVER__LISTEN
  value: {{ .Values.config.server.listen | quote }}
{{- with .Values.secret.keys.s3AccessKey }}
- name: HUBGATE_STORE__S3__ACCESS_KEY
  valueFrom:
    secretKeyRef:
      name: {{ include "hubgate.secret" $ }}
      key: {{ . }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Files that any user may read, since any user may be ours. */}}
{{- define "hubgate.volumes" -}}
- name: config
  configMap:
    name: {{ include "hubgate.fullname" . }}
    defaultMode: 0444
- name: policy
  configMap:
    name: {{ include "hubgate.policyConfigMap" . }}
    defaultMode: 0444
- name: spool
  {{- if .Values.spool.volume }}
  {{- toYaml .Values.spool.volume | nindent 2 }}
  {{- else }}
  emptyDir:
    sizeLimit: {{ include "hubgate.spoolSize" . }}
  {{- end }}
{{- $files := include "hubgate.secretFiles" . | fromJsonArray }}
{{- if $files }}
- name: secrets
  secret:
    secretName: {{ include "hubgate.secret" . }}
    defaultMode: 0444
    items:
      {{- range $files }}
      - key: {{ . }}
        path: {{ . }}
      {{- end }}
{{- end }}
{{- with .Values.ca.configMap }}
- name: ca
  configMap:
    name: {{ . }}
    defaultMode: 0444
{{- end }}
{{- with .Values.tls.existingSecret }}
- name: tls
  secret:
    secretName: {{ . }}
    defaultMode: 0444
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Resources, with the spool's room asked of the node where the spool is the node's. */}}
{{- define "hubgate.resources" -}}
{{- $resources := deepCopy .resources -}}
{{- if not .root.Values.spool.volume -}}
{{- $requests := $resources.requests | default dict -}}
{{- if not (hasKey $requests "ephemeral-storage") }}{{ $_ := set $requests "ephemeral-storage" (include "hubgate.spoolSize" .root) }}{{ end -}}
{{- $_ := set $resources "requests" $requests -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}
