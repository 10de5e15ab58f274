{{/*
The one description of a Ray cluster, for the RayCluster, every RayJob and the RayCronJob.
Takes (dict "root" .) and, of a job, "spec": the ConfigMap that is mounted on its head.
*/}}
{{- define "unet-batch.rayClusterSpec" -}}
{{- $root := .root -}}
{{- $isQueued := and (not (empty .spec)) $root.Values.kueue.enabled -}}
rayVersion: {{ $root.Values.rayVersion | quote }}
authOptions:
  mode: token
  {{- with $root.Values.auth.existingSecret }}
  secretName: {{ . }}
  {{- end }}
{{- if $isQueued }}
# Kueue admits a job as a whole, so its size is fixed: maxReplicas of every group.
enableInTreeAutoscaling: false
{{- else }}
enableInTreeAutoscaling: true
autoscalerOptions:
  version: v2
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  securityContext: {{- include "unet-batch.containerSecurity" $root | nindent 4 }}
  resources:
    requests: {cpu: 200m, memory: 512Mi}
    limits: {cpu: "1", memory: 1Gi}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
{{- end }}
{{- if not .spec }}
{{- with $root.Values.cluster.gcsFaultTolerance }}
{{- if .enabled }}
gcsFaultToleranceOptions:
  redisAddress: {{ required "cluster.gcsFaultTolerance.redisAddress: e.g. redis:6379" .redisAddress }}
  {{- with .existingSecret }}
  redisPassword: {valueFrom: {secretKeyRef: {name: {{ . }}, key: password}}}
  {{- end }}
{{- end }}
{{- end }}
{{- end }}
headGroupSpec:
  rayStartParams:               # KubeRay wants strings
    dashboard-host: 0.0.0.0
    num-cpus: "0"               # no Replica on the head: it is for the driver
  template:
    metadata:
      labels: {{- include "unet-batch.rayPodLabels" $root | nindent 8 }}
    spec:
      {{- include "unet-batch.rayPod" (dict "root" $root "node" $root.Values.head "role" "head" "spec" .spec "hasToken" (not $isQueued)) | nindent 6 }}
workerGroupSpecs:
{{- range $name, $group := $root.Values.workerGroups }}
{{- if $group.enabled }}
{{- if gt (int $group.minReplicas) (int $group.maxReplicas) }}
{{- fail (printf "workerGroups.%s: minReplicas %v is more than maxReplicas %v" $name $group.minReplicas $group.maxReplicas) }}
{{- end }}
  - groupName: {{ $name }}
    replicas: {{ ternary $group.maxReplicas $group.minReplicas $isQueued }}
    minReplicas: {{ $group.minReplicas }}
    maxReplicas: {{ $group.maxReplicas }}
    {{- if not $isQueued }}
    idleTimeoutSeconds: {{ $group.idleTimeoutSeconds }}
    {{- end }}
    rayStartParams: {}
    template:
      metadata:
        labels: {{- include "unet-batch.rayPodLabels" $root | nindent 10 }}
      spec:
        {{- include "unet-batch.rayPod" (dict "root" $root "node" $group "role" "worker" "hasToken" false) | nindent 8 }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "unet-batch.rayPodLabels" -}}
{{- include "unet-batch.selector" . }}
app.kubernetes.io/component: ray
{{- end -}}

{{/* A Ray pod's spec: (dict "root" . "node" its values "role" head or worker "spec" "hasToken"). */}}
{{- define "unet-batch.rayPod" -}}
{{- $isHead := eq .role "head" -}}
{{- include "unet-batch.podBasics" (dict "root" .root "account" .role) }}
automountServiceAccountToken: {{ .hasToken }}   # the autoscaler needs one, nobody else
restartPolicy: Never            # a node that died is a new node, never the old one half alive
{{- with .node.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .node.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
terminationGracePeriodSeconds: 60
containers:
  - name: ray-{{ .role }}
    {{- include "unet-batch.containerBasics" .root | nindent 4 }}
    {{- if $isHead }}
    ports:
      - {name: gcs-server, containerPort: 6379}
      - {name: dashboard, containerPort: 8265}
      - {name: client, containerPort: 10001}
      - {name: metrics, containerPort: 8080}
      - {name: as-metrics, containerPort: 44217}    # the autoscaler's
      - {name: dash-metrics, containerPort: 44227}  # the dashboard's
      - {name: driver, containerPort: 9400}         # the job's own
    env:
      {{- include "unet-batch.metricsEnv" .root | nindent 6 }}
    {{- else }}
    ports:
      - {name: metrics, containerPort: 8080}
    {{- end }}
    {{- with .root.Values.storage }}
    {{- if and (eq .type "objectStore") .objectStore.secret }}
    envFrom:
      - secretRef: {name: {{ .objectStore.secret }}}
    {{- end }}
    {{- end }}
    resources: {{- include "unet-batch.rayResources" .node | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      - {name: home, mountPath: /home/unet-batch}
      - {name: shm, mountPath: /dev/shm}
      {{- if eq .root.Values.storage.type "pvc" }}
      - {name: data, mountPath: {{ .root.Values.storage.mountPath }}}
      {{- end }}
      {{- if .spec }}
      - {name: spec, mountPath: /etc/unet-batch, readOnly: true}
      {{- end }}
volumes:
  - {name: tmp, emptyDir: {sizeLimit: {{ .node.scratch }}}}
  - {name: home, emptyDir: {sizeLimit: 1Gi}}
  - {name: shm, emptyDir: {medium: Memory, sizeLimit: {{ .node.sharedMemory }}}}
  {{- if eq .root.Values.storage.type "pvc" }}
  - {name: data, persistentVolumeClaim: {claimName: {{ include "unet-batch.claim" .root }}}}
  {{- end }}
  {{- if .spec }}
  - {name: spec, configMap: {name: {{ .spec }}}}
  {{- end }}
{{- end -}}

{{/* Requests equal limits: Ray reads the limits, and a pod within its requests is evicted last. */}}
{{- define "unet-batch.rayResources" -}}
{{- $resources := dict "cpu" .cpu "memory" .memory -}}
{{- if .gpus -}}
{{- $_ := set $resources .gpuResource .gpus -}}
{{- end -}}
{{- toYaml (dict "requests" $resources "limits" $resources) -}}
{{- end -}}

{{/*
A RayJob's spec: (dict "root" . "kind" the command "spec" its ConfigMap), and "deadline" where
it is not the default.

HTTPMode: KubeRay asks the head itself. No submitter's exit can be taken for the job's
(kuberay#4285), no submission id comes twice (kuberay#1539), and KubeRay adds no container
of its own, whose security would not be ours.
*/}}
{{- define "unet-batch.rayJobSpec" -}}
{{- $jobs := .root.Values.jobDefaults -}}
submissionMode: HTTPMode
entrypoint: unet-batch {{ .kind }} --spec /etc/unet-batch/spec.yaml --ray auto
shutdownAfterJobFinishes: true
ttlSecondsAfterFinished: {{ int $jobs.ttlSecondsAfterFinished }}
activeDeadlineSeconds: {{ int (.deadline | default $jobs.activeDeadlineSeconds) }}
preRunningDeadlineSeconds: {{ int $jobs.preRunningDeadlineSeconds }}
backoffLimit: {{ $jobs.backoffLimit }}
rayClusterSpec:
  {{- include "unet-batch.rayClusterSpec" (dict "root" .root "spec" .spec) | nindent 2 }}
{{- end -}}
