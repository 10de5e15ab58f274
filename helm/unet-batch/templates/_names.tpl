{{/*
Names. KubeRay allows 47 characters for a RayJob; `-retrain-`, the ten digits that a CronJob
appends and the number of an attempt leave 24 for the release.
*/}}
{{- define "unet-batch.name" -}}
{{- $name := .Release.Name | trunc 24 | trimSuffix "-" -}}
{{- if not (regexMatch "^[a-z]([a-z0-9-]*[a-z0-9])?$" $name) -}}
{{- fail (printf "release name %q: Ray clusters are Services too, so begin with a letter; a-z, 0-9 and - only" .Release.Name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- define "unet-batch.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* Labels of every object. */}}
{{- define "unet-batch.labels" -}}
app.kubernetes.io/part-of: unet-batch
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{/* What selects this release's pods. KubeRay sets app.kubernetes.io/name itself: left alone. */}}
{{- define "unet-batch.selector" -}}
app.kubernetes.io/part-of: unet-batch
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Kueue's labels, on whatever it queues. */}}
{{- define "unet-batch.kueueLabels" -}}
{{- with .Values.kueue -}}
{{- if .enabled -}}
kueue.x-k8s.io/queue-name: {{ required "kueue.queueName: name the LocalQueue" .queueName }}
{{- with .priorityClass }}
kueue.x-k8s.io/priority-class: {{ . }}
{{- end }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "unet-batch.claim" -}}
{{ .Values.storage.pvc.existingClaim | default (printf "%s-data" (include "unet-batch.name" .)) }}
{{- end -}}
