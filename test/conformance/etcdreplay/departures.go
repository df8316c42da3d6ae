package etcdreplay

// Departures are the recordings ("name.jsonl"), cases ("case") and steps ("case/step") that Muster, configured like etcd
// (Likeness), answers otherwise, with the reason. Whatever is not here must be as recorded.
func Departures() map[string]string {
	return map[string]string{
		"stream-from-history-gives-one-old-event-then-stops/6": "a stream from the past goes on instead of falling silent for ever",
		"auth.jsonl": "users and roles of the v2 interface are not offered",
		"no-leader":  "an announced server that has not come costs no quorum",
	}
}

// Likeness are the flags of an agent that make it behave as etcd 3.4 does where Muster's defaults are others.
func Likeness() []string { return []string{"-cors=*", "-watch-history-events=1000"} }

// Defaults are the recordings that need Likeness, with the reason for the default.
func Defaults() map[string]string {
	return map[string]string{
		"history-window-cleared": "more than 1000 events are kept",
		"history-window-edge":    "more than 1000 events are kept",
		"cors-default":           "browsers may only call from origins that the configuration names",
	}
}
