{{/*
What all pods of the chart have in common. They fit the "restricted" Pod Security Standard:
no root, no privilege, the root file system read-only, so that /tmp and the home are volumes.
*/}}
{{- define "unet-batch.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "unet-batch.containerSecurity" -}}
runAsNonRoot: true
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
privileged: false
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Fields of a pod's spec: image pull, account, security. Takes (dict "root" . "account" ...). */}}
{{- define "unet-batch.podBasics" -}}
serviceAccountName: {{ include "unet-batch.name" .root }}-{{ .account }}
securityContext: {{- include "unet-batch.podSecurity" . | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Fields of a container: image, security. */}}
{{- define "unet-batch.containerBasics" -}}
image: {{ include "unet-batch.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext: {{- include "unet-batch.containerSecurity" . | nindent 2 }}
{{- end -}}

{{/* A pod that runs `unet-batch submit`: the nightly one's and `helm test`'s. Takes (dict "root" .
     "spec" the ConfigMap it submits "args" what is said besides). */}}
{{- define "unet-batch.submitterPod" -}}
{{- include "unet-batch.podBasics" (dict "root" .root "account" "submitter") }}
automountServiceAccountToken: true
restartPolicy: Never
containers:
  - name: submit
    {{- include "unet-batch.containerBasics" .root | nindent 4 }}
    args:
      - submit
      - /etc/unet-batch/spec.yaml
      - --kubernetes
      - --namespace=$(NAMESPACE)
      - --template={{ include "unet-batch.name" .root }}-rayjob
      {{- toYaml .args | nindent 6 }}
    env:
      - name: NAMESPACE
        valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
      - name: RUN
        valueFrom: {fieldRef: {fieldPath: "metadata.labels['batch.kubernetes.io/job-name']"}}
      {{- include "unet-batch.metricsEnv" .root | nindent 6 }}
    ports:
      - {name: driver, containerPort: 9400}
    resources:
      requests: {cpu: 100m, memory: 512Mi}
      limits: {cpu: "1", memory: 512Mi}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      - {name: spec, mountPath: /etc/unet-batch, readOnly: true}
volumes:
  - {name: tmp, emptyDir: {sizeLimit: 1Gi}}
  - {name: spec, configMap: {name: {{ .spec }}}}
{{- end -}}

{{/* Every command that has metrics serves them on this port, and a while longer. */}}
{{- define "unet-batch.metricsEnv" -}}
- {name: UNET_BATCH_METRICS_PORT, value: "9400"}
- {name: UNET_BATCH_METRICS_ADDRESS, value: 0.0.0.0}
- {name: UNET_BATCH_METRICS_LINGER_S, value: {{ .Values.monitoring.lingerSeconds | quote }}}
{{- end -}}
