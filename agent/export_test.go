package agent

import "github.com/musterhq/muster/api"

// Table is every route of a running agent.
func (a *Agent) Table() []api.Route { return a.table() }
