{{/* Names and labels */}}

{{- define "lethe.fullname" -}}
{{- $name := contains .Chart.Name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) -}}
{{- $name | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{- define "lethe.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "lethe.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{ include "lethe.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "lethe.homeClaim" -}}
{{- .Values.home.existingClaim | default (printf "%s-home" (include "lethe.fullname" .)) -}}
{{- end }}

{{/* What all pods have in common */}}

{{- define "lethe.pod" -}}
serviceAccountName: {{ include "lethe.fullname" . }}
automountServiceAccountToken: false
# A Service named `lethe` would put LETHE_PORT and others into the environment, and unknown settings are refused.
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001 # of both images
  runAsGroup: 10001
  fsGroup: 10001
  # Once, for a new volume: at every mount it would open `secret`, `store.key` and others to the group again.
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- define "lethe.volumes" -}}
- name: home
  persistentVolumeClaim:
    claimName: {{ include "lethe.homeClaim" . }}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      {{- range $setting, $of := .Values.secretFiles }}
      - secret:
          name: {{ $of.name }}
          items:
            - {key: {{ $of.key | quote }}, path: {{ $setting }}}
      {{- end }}
      {{- with .Values.store.credentials }}
      {{- if .name }}
      - secret:
          name: {{ .name }}
          items:
            - {key: {{ .key | quote }}, path: aws_credentials}
      {{- end }}
      {{- end }}
# In memory, and within the containers' limits.
- name: tmp
  emptyDir: {medium: Memory, sizeLimit: 512Mi}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: 512Mi}
{{- end }}

{{/* What all containers have in common */}}

{{- define "lethe.container" -}}
image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
volumeMounts:
  - {name: home, mountPath: /data}
  - {name: secrets, mountPath: /secrets, readOnly: true}
  - {name: tmp, mountPath: /tmp}
  - {name: shm, mountPath: /dev/shm}
{{- end }}

{{- define "lethe.env" -}}
- {name: LETHE_HOME, value: /data/lethe} # made by its user, for its user alone, whatever the volume's own folder is
- {name: HOME, value: /tmp} # where libraries keep compiled kernels
{{- range $setting, $of := .Values.secretFiles }}
- {name: LETHE_{{ $setting | upper }}_FILE, value: /secrets/{{ $setting }}}
{{- end }}
{{- with .Values.store }}
{{- if .url }}
- {name: LETHE_STORE_URL, value: {{ .url | quote }}}
{{- with .region }}
- {name: AWS_REGION, value: {{ . | quote }}}
{{- end }}
{{- with .endpointUrl }}
- {name: AWS_ENDPOINT_URL_S3, value: {{ . | quote }}}
{{- end }}
{{- if .credentials.name }}
- {name: AWS_SHARED_CREDENTIALS_FILE, value: /secrets/aws_credentials}
{{- end }}
{{- end }}
{{- end }}
{{- range $name, $value := .Values.settings }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{/* So many threads as the container asks for processors: libraries would count those of the node */}}
{{- define "lethe.requestedCpus" -}}
valueFrom:
  resourceFieldRef: {resource: requests.cpu}
{{- end }}

{{/* Beside what is named: the Service's names, and the pod's address, by which Prometheus asks */}}
{{- define "lethe.allowedHosts" -}}
{{- $name := include "lethe.fullname" . -}}
{{- $service := printf "%s.%s" $name .Release.Namespace -}}
{{- with .Values.allowedHosts -}}
{{- concat . (list $name $service (printf "%s.svc" $service) (printf "%s.svc.cluster.local" $service) "$(POD_IP)" "[$(POD_IP)]") | join "," -}}
{{- end }}
{{- end }}

{{- define "lethe.placed" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "lethe.hasGpu" -}}
{{- if hasKey .resources.limits "nvidia.com/gpu" }}yes{{ end }}
{{- end }}

{{/* What the schema cannot say, or not in words */}}
{{- define "lethe.check" -}}
{{- $secrets := list "SECRET" "RETIRED_SECRETS" "DATABASE_URL" "REDIS_URL" "STREAM_URL" "WEBHOOK_SECRET" "STORE_KEY" -}}
{{- $own := list "HOME" "HOST" "PORT" "THREADS" "BUILD_PROCESSES" "REQUEST_TIMEOUT" "ALLOWED_HOSTS" "STORE_URL" -}}
{{- range $name, $_ := .Values.settings }}
{{- $setting := $name | trimPrefix "LETHE_" | trimSuffix "_FILE" }}
{{- if has $setting $secrets }}
{{- fail (printf "settings.%s: name a key of a Secret under secretFiles.%s, or whoever may see the pods may read it" $name (lower $setting)) }}
{{- else if has $setting $own }}
{{- fail (printf "settings.%s is set by the chart: it follows from home, store, api, worker or allowedHosts" $name) }}
{{- end }}
{{- end }}
{{- $differ := ne (include "lethe.hasGpu" .Values.api) (include "lethe.hasGpu" .Values.worker) -}}
{{- if and $differ (not .Values.settings.LETHE_DTYPE) }}
{{- fail "only one of api and worker has a GPU: set settings.LETHE_DTYPE, or replicas refuse what the worker builds in another precision" }}
{{- end }}
{{- if and .Values.store.credentials.name (not .Values.store.url) }}
{{- fail "store.credentials names a Secret, but store.url names no bucket" }}
{{- end }}
{{- if gt (int .Values.api.autoscaling.minReplicas) (int .Values.api.autoscaling.maxReplicas) }}
{{- fail "api.autoscaling.minReplicas is more than api.autoscaling.maxReplicas" }}
{{- end }}
{{- if and .Values.metrics.serviceMonitor.enabled (not .Values.metrics.key.name) }}
{{- fail "metrics.serviceMonitor wants metrics.key.name: without a key Prometheus is refused (docs/kubernetes.md says how to make the Secret)" }}
{{- end }}
{{- end }}
