package agent

import (
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-metrics"
	metricsprom "github.com/hashicorp/go-metrics/prometheus"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Intervals of the metrics kept in memory for /v1/agent/metrics.
const (
	metricsInterval = 10 * time.Second
	metricsKept     = time.Minute
)

// newLogger makes the agent's log: levelled text, or one JSON object a line.
func newLogger(cfg *Config, out io.Writer) hclog.InterceptLogger {
	return hclog.NewInterceptLogger(&hclog.LoggerOptions{
		Name:       "agent",
		Level:      hclogLevel(cfg.LogLevel),
		Output:     out,
		JSONFormat: cfg.LogJSON,
		TimeFormat: "2006-01-02T15:04:05.000Z0700",
	})
}

// LogWriter takes lines for the agent's log from libraries that know no other way; a line may begin with its level:
// "[WARN] text".
func (a *Agent) LogWriter() io.Writer {
	return a.log.Named("library").StandardWriter(&hclog.StandardLoggerOptions{InferLevels: true})
}

func hclogLevel(name string) hclog.Level { return hclog.LevelFromString(name) }

// telemetry is where all parts count: in memory for the JSON form, and in a registry for the Prometheus form.
type telemetry struct {
	metrics *metrics.Metrics
	memory  *metrics.InmemSink
	scraped *prometheus.Registry
	prom    http.Handler // /metrics and ?format=prometheus
}

func newTelemetry(cfg *Config) (*telemetry, error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	sink, err := metricsprom.NewPrometheusSinkFrom(metricsprom.PrometheusOpts{Registerer: registry, Expiration: cfg.Telemetry.PrometheusRetention})
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	memory := metrics.NewInmemSink(metricsInterval, metricsKept)
	mc := metrics.DefaultConfig(cfg.Telemetry.MetricsPrefix)
	mc.EnableHostname = !cfg.Telemetry.DisableHostname
	mc.EnableRuntimeMetrics = true // twice in an interval, for the JSON form; the Go collector has them for the other
	mc.ProfileInterval = metricsInterval / 2
	mc.FilterDefault = cfg.Telemetry.FilterDefault
	for _, p := range cfg.Telemetry.PrefixFilter {
		switch {
		case len(p) > 1 && p[0] == '+':
			mc.AllowedPrefixes = append(mc.AllowedPrefixes, p[1:])
		case len(p) > 1 && p[0] == '-':
			mc.BlockedPrefixes = append(mc.BlockedPrefixes, p[1:])
		}
	}
	// The libraries below us count through the global instance, so it is ours.
	m, err := metrics.NewGlobal(mc, &quietSink{FanoutSink: metrics.FanoutSink{memory, sink}})
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	// The JSON form shows the last whole interval: without this the first one, if short, would have none of these.
	m.EmitRuntimeStats()
	return &telemetry{metrics: m, memory: memory, scraped: registry, prom: promhttp.HandlerFor(registry, promhttp.HandlerOpts{})}, nil
}
