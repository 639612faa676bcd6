{{- define "shardline.name" -}}
{{- if contains "shardline" .Release.Name -}}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}{{ printf "%s-shardline" (.Release.Name | trunc 30 | trimSuffix "-") }}{{- end -}}
{{- end -}}

{{/* Labels by which an agent's pods are found. Takes (dict "root" $ "agent" "leader"). */}}
{{- define "shardline.selector" -}}
app.kubernetes.io/name: shardline
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .agent }}-agent
{{- end -}}

{{- define "shardline.labels" -}}
{{ include "shardline.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end -}}

{{- define "shardline.image" -}}
{{ .root.Values.image.registry }}/{{ .agent }}-agent:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end -}}

{{/* Where the agent reaches OpenSearch. */}}
{{- define "shardline.url" -}}
{{- $values := index .root.Values .agent -}}
{{- if $values.opensearch.url -}}{{ $values.opensearch.url }}
{{- else if eq .agent "leader" -}}
{{- if eq $values.mode "sidecar" -}}http://127.0.0.1:9200
{{- else if eq $values.mode "daemonset" -}}http://$(HOST_IP):9200
{{- else -}}{{ fail "leader.opensearch.url is required for mode poll: the leader cluster's REST address" }}{{- end -}}
{{- else -}}{{ fail "follower.opensearch.url is required: the follower cluster's own REST address" }}{{- end -}}
{{- end -}}

{{/* The agent's configuration file, as a dictionary. */}}
{{- define "shardline.config" -}}
{{- $values := index .root.Values .agent -}}
{{- $kafka := .root.Values.kafka -}}
{{- $opensearch := dict "url" (include "shardline.url" .) -}}
{{- with $values.opensearch.username }}{{ $_ := set $opensearch "username" . }}{{ end -}}
{{- if $values.opensearch.passwordSecret -}}
{{- $_ := set $opensearch "password_file" "/etc/shardline/secrets/opensearch/password" }}{{ end -}}
{{- if $values.opensearch.caSecret -}}
{{- $_ := set $opensearch "ca_certificate" "/etc/shardline/secrets/opensearch-ca/ca.pem" }}{{ end -}}
{{- $topics := dict "bootstrap_servers" (required "kafka.bootstrapServers is required" $kafka.bootstrapServers)
    "topic_prefix" $kafka.topicPrefix "replication_factor" (int $kafka.replicationFactor) -}}
{{- with $kafka.properties }}{{ $_ := set $topics "properties" . }}{{ end -}}
{{- $files := dict -}}
{{- range $property, $secret := $kafka.secretProperties -}}
{{- $_ := set $files $property (printf "/etc/shardline/secrets/kafka/%s" $property) }}{{ end -}}
{{- with $files }}{{ $_ := set $topics "properties_files" . }}{{ end -}}
{{- $config := dict "opensearch" $opensearch "kafka" $topics -}}
{{- $_ := set $config "admin" (dict "listen" (printf "0.0.0.0:%d" (int $values.adminPort))) -}}
{{- if eq .agent "follower" -}}
{{- $_ := set $config "gateway" (dict "listen" (printf "0.0.0.0:%d" (int $values.gateway.port))) -}}
{{- $_ := set $config "storage" (dict "data_dir" "/var/lib/shardline/follower-agent") -}}
{{- else if eq $values.mode "poll" -}}
{{- $_ := set $config "capture" (dict "source" "poll") -}}
{{- end -}}
{{- mergeOverwrite $config (deepCopy $values.config) | toYaml -}}
{{- end -}}

{{/* As TOML, whose values are written as JSON's are: toToml would write 3 as 3.0. */}}
{{- define "shardline.toml" -}}
{{- range $section, $keys := include "shardline.config" . | fromYaml }}
[{{ $section }}]
{{- range $key, $value := $keys }}
{{- if not (kindIs "map" $value) }}
{{ $key | quote }} = {{ $value | toJson }}
{{- end }}
{{- end }}
{{- range $key, $table := $keys }}
{{- if kindIs "map" $table }}
[{{ $section }}.{{ $key | quote }}]
{{- range $name, $value := $table }}
{{ $name | quote }} = {{ $value | toJson }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* A container's settings that are the same everywhere. */}}
{{- define "shardline.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* Mounts of configuration and secrets. */}}
{{- define "shardline.volumeMounts" -}}
{{- $values := index .root.Values .agent -}}
- name: shardline-config
  mountPath: /etc/shardline/{{ .agent }}-agent.toml
  subPath: {{ .agent }}-agent.toml
  readOnly: true
{{- if $values.opensearch.passwordSecret }}
- name: shardline-opensearch-password
  mountPath: /etc/shardline/secrets/opensearch
  readOnly: true
{{- end }}
{{- if $values.opensearch.caSecret }}
- name: shardline-opensearch-ca
  mountPath: /etc/shardline/secrets/opensearch-ca
  readOnly: true
{{- end }}
{{- if .root.Values.kafka.secretProperties }}
- name: shardline-kafka-secrets
  mountPath: /etc/shardline/secrets/kafka
  readOnly: true
{{- end }}
{{- range $values.mounts }}
- name: {{ .name }}
  mountPath: /etc/shardline/mounts/{{ .name }}
  readOnly: true
{{- end }}
{{- end -}}

{{- define "shardline.volumes" -}}
{{- $values := index .root.Values .agent -}}
- name: shardline-config
  configMap:
    name: {{ include "shardline.name" .root }}-{{ .agent }}
{{- with $values.opensearch.passwordSecret }}
- name: shardline-opensearch-password
  secret:
    secretName: {{ .name }}
    items:
      - {key: {{ .key | quote }}, path: password}
{{- end }}
{{- with $values.opensearch.caSecret }}
- name: shardline-opensearch-ca
  secret:
    secretName: {{ .name }}
    items:
      - {key: {{ .key | quote }}, path: ca.pem}
{{- end }}
{{- with .root.Values.kafka.secretProperties }}
- name: shardline-kafka-secrets
  projected:
    sources:
      {{- range $property, $secret := . }}
      - secret:
          name: {{ $secret.name }}
          items:
            - {key: {{ $secret.key | quote }}, path: {{ $property | quote }}}
      {{- end }}
{{- end }}
{{- with $values.mounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Annotations of a pod: new configuration is a new pod. */}}
{{- define "shardline.podAnnotations" -}}
{{- $values := index .root.Values .agent -}}
checksum/config: {{ include "shardline.toml" . | sha256sum }}
prometheus.io/scrape: "true"
prometheus.io/port: {{ $values.adminPort | quote }}
{{- with $values.podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Where pods run, and who pulls their images. */}}
{{- define "shardline.placement" -}}
{{- $values := index .root.Values .agent -}}
automountServiceAccountToken: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The leader agent's container. It has no readiness probe: a sidecar that is not ready takes its data node out of service. */}}
{{- define "shardline.leaderContainer" -}}
{{- $leader := dict "root" . "agent" "leader" -}}
name: shardline-leader-agent
image: {{ include "shardline.image" $leader }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [--config, /etc/shardline/leader-agent.toml]
{{- if contains "$(HOST_IP)" (include "shardline.url" $leader) }}
env:
  - name: HOST_IP
    valueFrom: {fieldRef: {fieldPath: status.hostIP}}
  - name: SHARDLINE_OPENSEARCH__URL
    value: {{ include "shardline.url" $leader | quote }}
{{- end }}
ports:
  - {name: shardline-admin, containerPort: {{ .Values.leader.adminPort }}}
securityContext:
  runAsUser: {{ .Values.leader.runAsUser }}
  runAsGroup: {{ .Values.leader.runAsGroup }}
  {{- include "shardline.securityContext" . | nindent 2 }}
resources:
  {{- toYaml .Values.leader.resources | nindent 2 }}
{{- end -}}
