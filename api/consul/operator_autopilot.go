package consul

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/kv"
)

// AutopilotPath is where the tree holds the settings of autopilot, as the JSON of AutopilotConfig.
const AutopilotPath = "g/autopilot"

// AutopilotConfig says what the leader does about servers that come and die. The last three fields are kept for those
// who set them and mean nothing here. Both indexes are those of the record, and not stored in it.
type AutopilotConfig struct {
	CleanupDeadServers      bool
	LastContactThreshold    Duration
	MaxTrailingLogs         uint64
	MinQuorum               uint
	ServerStabilizationTime Duration
	RedundancyZoneTag       string
	DisableUpgradeMigration bool
	UpgradeVersionTag       string
	CreateIndex             uint64
	ModifyIndex             uint64
}

// DefaultAutopilot is what holds when nobody has set anything.
func DefaultAutopilot() AutopilotConfig {
	return AutopilotConfig{
		CleanupDeadServers: true, LastContactThreshold: Duration(200 * time.Millisecond), MaxTrailingLogs: 250,
		ServerStabilizationTime: Duration(10 * time.Second),
	}
}

// ReadAutopilot gives the settings in the tree; false when there are none yet.
func ReadAutopilot(s *kv.Snap) (AutopilotConfig, bool) {
	e, ok := s.Get(AutopilotPath)
	if !ok {
		return DefaultAutopilot(), false
	}
	var c AutopilotConfig
	if json.Unmarshal([]byte(e.Value()), &c) != nil {
		return DefaultAutopilot(), false
	}
	c.CreateIndex, c.ModifyIndex = e.Created(), e.Modified()
	return c, true
}

// WriteAutopilot builds the Txn that sets c. With create it only takes effect when there are no settings yet, with
// cas only when the last change of the settings was at c.ModifyIndex.
func WriteAutopilot(c AutopilotConfig, create, cas bool) (kv.Txn, error) {
	modified := c.ModifyIndex
	c.CreateIndex, c.ModifyIndex = 0, 0
	b, err := json.Marshal(&c)
	if err != nil {
		return kv.Txn{}, fmt.Errorf("encode the settings of autopilot: %w", err)
	}
	t := kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Action: kv.ActSet, Path: AutopilotPath, Value: string(b), Flags: kv.Flat | kv.KeepCreated}}}
	switch {
	case create:
		t.Conds = []kv.Cond{{Kind: kv.CondAbsent, Path: AutopilotPath}}
	case cas:
		t.Conds = []kv.Cond{{Kind: kv.CondIndex, Path: AutopilotPath, Index: modified}}
	}
	return t, nil
}

// AutopilotHealth is what the leader thinks of the servers. FailureTolerance is how many healthy voters may fail
// before the quorum is lost; OptimisticFailureTolerance counts healthy servers without a vote as well, which would
// have got one in the meantime.
type AutopilotHealth struct {
	Healthy                    bool
	FailureTolerance           int
	OptimisticFailureTolerance int
	Servers                    []ServerHealth
}

// ServerHealth is one server of AutopilotHealth.
type ServerHealth struct {
	ID          string
	Name        string
	Address     string
	SerfStatus  string
	Version     string
	Leader      bool
	LastContact Duration
	LastTerm    uint64
	LastIndex   uint64
	Healthy     bool
	Voter       bool
	StableSince time.Time
	Meta        map[string]string `json:"-"` // metadata of the node; only in autopilot/state
}

// autopilotConfiguration is GET and PUT /v1/operator/autopilot/configuration.
func (a *API) autopilotConfiguration(w http.ResponseWriter, r *http.Request) error {
	p, err := a.operate(r, r.Method == http.MethodPut)
	if err != nil {
		return err
	}
	if r.Method == http.MethodPut {
		return a.setAutopilot(w, r, &p)
	}
	consistency := api.Default
	if p.has("stale") {
		consistency = api.Stale
	}
	s, _, err := a.cfg.Store.Read(r.Context(), consistency)
	if err != nil {
		return err
	}
	c, _ := ReadAutopilot(s)
	return writeJSON(w, r, &c)
}

func (a *API) setAutopilot(w http.ResponseWriter, r *http.Request, p *params) error {
	c := DefaultAutopilot() // what the body leaves out
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		if e := bodyTooLarge(err); e != nil {
			return e
		}
		return badRequest("Error parsing autopilot config: %v", err)
	}
	if c.LastContactThreshold < 0 || c.ServerStabilizationTime < 0 {
		return badRequest("Error parsing autopilot config: durations must not be negative")
	}
	text, cas := p.lookup("cas")
	if cas {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return badRequest("Error parsing cas value: %v", err)
		}
		c.ModifyIndex = n
	}
	t, err := WriteAutopilot(c, false, cas)
	if err != nil {
		return err
	}
	res, err := a.cfg.Store.Propose(r.Context(), t)
	if err != nil {
		return err
	}
	if res.Code == kv.Mismatch && cas {
		writeBool(w, r, false)
		return nil
	}
	if err := codeError(res); err != nil {
		return err
	}
	writeBool(w, r, true)
	return nil
}

// autopilotHealth is GET /v1/operator/autopilot/health: 429 when a server is not healthy.
func (a *API) autopilotHealth(w http.ResponseWriter, r *http.Request) error {
	if _, err := a.operate(r, false); err != nil {
		return err
	}
	h, err := a.cfg.Operator.Autopilot()
	if err != nil {
		return err
	}
	out := struct {
		Healthy          bool
		FailureTolerance int
		Servers          []ServerHealth
	}{h.Healthy, h.FailureTolerance, orEmpty(h.Servers)}
	status := http.StatusOK
	if !h.Healthy {
		status = http.StatusTooManyRequests
	}
	return writeJSONStatus(w, r, status, &out)
}

// stateServer is one server in autopilot/state.
type stateServer struct {
	ID          string
	Name        string
	Address     string
	NodeStatus  string
	Version     string
	LastContact Duration
	LastTerm    uint64
	LastIndex   uint64
	Healthy     bool
	StableSince time.Time
	ReadReplica bool
	Status      string // leader, voter, non-voter
	Meta        map[string]string
	NodeType    string // what it is to become: every server here is a voter sooner or later
}

// autopilotState is GET /v1/operator/autopilot/state.
func (a *API) autopilotState(w http.ResponseWriter, r *http.Request) error {
	if _, err := a.operate(r, false); err != nil {
		return err
	}
	h, err := a.cfg.Operator.Autopilot()
	if err != nil {
		return err
	}
	out := struct {
		Healthy                    bool
		FailureTolerance           int
		OptimisticFailureTolerance int
		Servers                    map[string]stateServer
		Leader                     string
		Voters                     []string
	}{Healthy: h.Healthy, FailureTolerance: h.FailureTolerance, OptimisticFailureTolerance: h.OptimisticFailureTolerance, Servers: map[string]stateServer{}, Voters: []string{}}
	for _, s := range h.Servers {
		status := "non-voter"
		switch {
		case s.Leader:
			status, out.Leader = "leader", s.ID
		case s.Voter:
			status = "voter"
		}
		if s.Voter {
			out.Voters = append(out.Voters, s.ID)
		}
		out.Servers[s.ID] = stateServer{
			ID: s.ID, Name: s.Name, Address: s.Address, NodeStatus: s.SerfStatus, Version: s.Version, LastContact: s.LastContact,
			LastTerm: s.LastTerm, LastIndex: s.LastIndex, Healthy: s.Healthy, StableSince: s.StableSince, Status: status, Meta: s.Meta, NodeType: "voter",
		}
	}
	return writeJSON(w, r, &out)
}
