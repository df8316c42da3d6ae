package etcdreplay

// Departures are the recordings ("name.jsonl"), cases ("case") and steps ("case/step") that Muster answers otherwise
// as it is shipped, with the reason. Whatever is not here must be as recorded.
func Departures() map[string]string {
	return map[string]string{
		"stream-from-history-gives-one-old-event-then-stops/6": "a stream from the past goes on instead of falling silent for ever",
		"history-window-cleared":                               "more than 1000 events are kept",
		"history-window-edge":                                  "more than 1000 events are kept",
		"debug-vars":                                           "the internals of the process are not published under this path",
		"cors-default":                                         "browsers may only call from origins that the configuration names",
		"auth.jsonl":                                           "users and roles of the v2 interface are not offered",
		"no-leader":                                            "an announced server that has not come costs no quorum",
	}
}
