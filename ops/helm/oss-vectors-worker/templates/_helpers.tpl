{{- define "worker.labels" -}}
{{ include "worker.selector" . }}
app.kubernetes.io/component: consumer
app.kubernetes.io/part-of: oss-vectors
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "worker.selector" -}}
app.kubernetes.io/name: oss-vectors-worker
{{- with .Values.instance }}
app.kubernetes.io/instance: {{ . }}
{{- end }}
{{- end }}

{{- define "worker.metadata" -}}
name: {{ .Values.fullname }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "worker.labels" . | nindent 2 }}
{{- end }}

{{/* Ends in a hash of the content, so that a change of the settings rolls the pods. */}}
{{- define "worker.config" -}}
{{ .Values.fullname }}-{{ .Values.config | sha256sum | trunc 10 }}
{{- end }}

{{- define "worker.scaled" -}}
{{- if or .Values.keda.enabled .Values.cpuAutoscaler.enabled }}true{{ end }}
{{- end }}

{{/* How both autoscalers move: each change is a rebalance, so up without much delay, down slowly. */}}
{{- define "worker.scaling" -}}
behavior:
  scaleUp:
    stabilizationWindowSeconds: 60
    policies:
      - type: Pods
        value: 2
        periodSeconds: 60
  scaleDown:
    stabilizationWindowSeconds: 600
    policies:
      - type: Pods
        value: 1
        periodSeconds: 300
{{- end }}

{{- define "worker.strimzi" -}}
{{ include "worker.labels" . }}
strimzi.io/cluster: {{ .Values.strimzi.cluster }}
{{- end }}
