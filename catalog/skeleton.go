package catalog

import "github.com/musterhq/muster/kv"

func (Views) Decode(path string, value string) (any, error) { panic("x") }
func (Views) Derive(tx kv.ViewTx, changed []string)         { panic("x") }

// Register builds the Txn for a registration, checked against s and conditional on what it read there.
// An identical re-registration gives a Txn with no effect (SkipSame). Errors are *InputError.
func Register(s *kv.Snap, r Registration) (kv.Txn, error) { panic("x") }

// Deregister: checkID wins over serviceID; both empty removes the node with everything on it. Unknown: an empty Txn.
func Deregister(s *kv.Snap, node, serviceID, checkID string) (kv.Txn, error) { panic("x") }

// InputError is a refusal of bad input; Text is for the client.
type InputError struct{ Text string }

func (e *InputError) Error() string { return e.Text }

// Queries. Lists are ordered by node name, then id. Names are looked up case-insensitively. Each *Path function
// gives the path whose kv index and Wait cover the matching query.
func Nodes(s *kv.Snap) []*Node                          { panic("x") } // NodesPath
func GetNode(s *kv.Snap, name string) (*Node, bool)     { panic("x") } // NodePath(name)
func ServicesOf(s *kv.Snap, node string) []*Service     { panic("x") }
func NodeChecks(s *kv.Snap, node string) []*Check       { panic("x") } // node-level and service checks of the node
func Services(s *kv.Snap) map[string][]string           { panic("x") } // name -> union of tags (sorted), view v/n
func Instances(s *kv.Snap, service string) []*Instance  { panic("x") } // InstancesPath(service)
func ServiceChecks(s *kv.Snap, service string) []*Check { panic("x") } // own checks of a service's instances
func ChecksInState(s *kv.Snap, state string) []*Check   { panic("x") } // "any" = all
func NodesPath() string                                 { panic("x") }
func NodePath(node string) string                       { panic("x") }
func ServicesPath() string                              { panic("x") }
func InstancesPath(svc string) string                   { panic("x") }

// Sessions.
func CreateSession(s *kv.Snap, x Session) (kv.Txn, error) { panic("x") } // x.ID must be set by the caller
func DestroySession(s *kv.Snap, id string) kv.Txn         { panic("x") }
func GetSession(s *kv.Snap, id string) (*Session, bool)   { panic("x") }
func Sessions(s *kv.Snap) []*Session                      { panic("x") }
func NodeSessions(s *kv.Snap, node string) []*Session     { panic("x") }
func SessionPath(s *kv.Snap, id string) (string, bool)    { panic("x") } // for kv.Op.OwnerPath

// SetLiveness builds the Txn by which the leader marks a node's agent alive or failed (status and output of LivenessCheck,
// and sessions that depend on it are deleted in the same Txn when it turns critical). Empty Txn if nothing changes.
func SetLiveness(s *kv.Snap, node string, alive bool) kv.Txn { panic("x") }
