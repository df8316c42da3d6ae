package etcd

import (
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

const membersMethods = "GET,POST,DELETE,PUT"

// maxMemberBody bounds the body of a membership request in bytes.
const maxMemberBody = 64 << 10

func hexID(id uint64) string { return strconv.FormatUint(id, 16) }

// memberJSON is a member in an answer.
type memberJSON struct {
	ID         string   `json:"id"`
	Name       string   `json:"name"`
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"`
}

func (m *Member) json() memberJSON {
	out := memberJSON{ID: hexID(m.ID), Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs}
	if out.PeerURLs == nil {
		out.PeerURLs = []string{}
	}
	if out.ClientURLs == nil {
		out.ClientURLs = []string{}
	}
	return out
}

func leaderOf(members []Member) *Member {
	for i := range members {
		if members[i].Leader {
			return &members[i]
		}
	}
	return nil
}

// serveMachines lists the client URLs of all members, sorted.
func (d *Dialect) serveMachines(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		methodNotAllowed(w, "GET,HEAD")
		return
	}
	var urls []string
	for _, m := range d.cfg.Members() {
		urls = append(urls, m.ClientURLs...)
	}
	slices.Sort(urls)
	w.Header()["Content-Type"] = d.text
	send(w, http.StatusOK, []byte(strings.Join(urls, ", ")))
}

// serveMembers is /v2/members and what is below it.
func (d *Dialect) serveMembers(w http.ResponseWriter, r *http.Request) {
	id := strings.Trim(strings.TrimPrefix(r.URL.Path, "/v2/members"), "/")
	switch r.Method {
	case http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete:
		d.setCluster(w.Header(), d.store.Status().ClusterID)
	default:
		methodNotAllowed(w, membersMethods)
		return
	}
	members := slices.Clone(d.cfg.Members())
	slices.SortFunc(members, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
	switch r.Method {
	case http.MethodGet:
		d.getMembers(w, id, members)
	case http.MethodPost:
		d.addMember(w, r, members)
	default:
		d.changeMember(w, r, id, members)
	}
}

func (d *Dialect) getMembers(w http.ResponseWriter, id string, members []Member) {
	switch id {
	case "":
		var out struct {
			Members []memberJSON `json:"members"`
		}
		out.Members = make([]memberJSON, len(members))
		for i := range members {
			out.Members[i] = members[i].json()
		}
		d.sendJSON(w, http.StatusOK, &out)
	case "leader":
		if l := leaderOf(members); l != nil {
			d.sendJSON(w, http.StatusOK, l.json())
			return
		}
		d.sendJSON(w, http.StatusServiceUnavailable, message{"During election"})
	default:
		d.sendJSON(w, http.StatusNotFound, message{"Not found"})
	}
}

// Servers come and go by gossip and are given their vote by the leader, so a request that would change the list
// is checked as etcd checks it and then refused with what to do instead.
const (
	refuseAdd    = "members are not added by request: start the new server with -retry-join and it joins by itself"
	refuseUpdate = "members are not updated by request: restart the server with its new address"
	refuseRemove = "members are not removed by request: make the server leave, or force it out with 'muster force-leave'"
)

func (d *Dialect) addMember(w http.ResponseWriter, r *http.Request, members []Member) {
	urls, ok := d.readURLs(w, r)
	if !ok {
		return
	}
	for _, m := range members {
		for _, u := range m.PeerURLs {
			if slices.Contains(urls, u) {
				d.sendJSON(w, http.StatusConflict, message{"membership: peerURL exists"})
				return
			}
		}
	}
	d.sendJSON(w, http.StatusNotImplemented, message{refuseAdd})
}

func (d *Dialect) changeMember(w http.ResponseWriter, r *http.Request, id string, members []Member) {
	if id == "" {
		methodNotAllowed(w, "")
		return
	}
	n, err := strconv.ParseUint(id, 16, 64)
	known := err == nil && slices.ContainsFunc(members, func(m Member) bool { return m.ID == n })
	if !known && (err != nil || r.Method == http.MethodDelete) {
		d.sendJSON(w, http.StatusNotFound, message{"No such member: " + id})
		return
	}
	if r.Method == http.MethodDelete {
		d.sendJSON(w, http.StatusNotImplemented, message{refuseRemove})
		return
	}
	urls, ok := d.readURLs(w, r)
	if !ok {
		return
	}
	for _, m := range members {
		if m.ID == n {
			continue
		}
		for _, u := range m.PeerURLs {
			if known && slices.Contains(urls, u) {
				d.sendJSON(w, http.StatusConflict, message{"membership: peerURL exists"})
				return
			}
		}
	}
	if !known {
		d.sendJSON(w, http.StatusNotFound, message{"No such member: " + id})
		return
	}
	d.sendJSON(w, http.StatusNotImplemented, message{refuseUpdate})
}

// readURLs reads the peerURLs of a body and answers what is wrong with them.
func (d *Dialect) readURLs(w http.ResponseWriter, r *http.Request) ([]string, bool) {
	ct := r.Header.Get("Content-Type")
	if t, _, err := mime.ParseMediaType(ct); err != nil || t != "application/json" {
		d.sendJSON(w, http.StatusUnsupportedMediaType, message{"Bad Content-Type " + ct + ", accept application/json"})
		return nil, false
	}
	bad := func(err error) ([]string, bool) {
		d.sendJSON(w, http.StatusBadRequest, message{err.Error()})
		return nil, false
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxMemberBody))
	if err != nil {
		return bad(err)
	}
	var in struct {
		PeerURLs []string `json:"peerURLs"`
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return bad(err)
	}
	if len(in.PeerURLs) == 0 {
		return bad(errors.New("no valid URLs given"))
	}
	for i, s := range in.PeerURLs {
		s = strings.TrimSpace(s)
		if err := checkURL(s); err != nil {
			return bad(err)
		}
		in.PeerURLs[i] = s
	}
	return in.PeerURLs, true
}

// checkURL checks one peer URL: scheme, host:port, no path.
func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil {
		return err
	}
	switch u.Scheme {
	case "http", "https":
		if _, _, err := net.SplitHostPort(u.Host); err != nil {
			return errors.New(`URL address does not have the form "host:port": ` + s)
		}
		if u.Path != "" {
			return errors.New("URL must not contain a path: " + s)
		}
	case "unix", "unixs":
	default:
		return errors.New("URL scheme must be http, https, unix, or unixs: " + s)
	}
	return nil
}
