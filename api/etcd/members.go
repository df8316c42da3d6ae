package etcd

import (
	"cmp"
	"context"
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

	"github.com/musterhq/muster/api"
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
	switch {
	case r.Method == http.MethodGet:
		members := slices.Clone(d.cfg.Members())
		slices.SortFunc(members, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
		d.getMembers(w, id, members)
	case !d.may(w, r, Access{Resource: "operator", Write: true}):
	case d.cfg.Membership == nil:
		d.sendJSON(w, http.StatusNotImplemented, message{"the members of this server are fixed"})
	case r.Method == http.MethodPost:
		d.addMember(w, r)
	default:
		d.changeMember(w, r, id)
	}
}

// membersTarget: every server can list the members, the leader changes them.
func membersTarget(r *http.Request) api.Target {
	if r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodDelete {
		return api.Leader
	}
	return api.Any
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

// Membership changes the servers of the cluster. It is called on the leader only; each call returns when the change
// is committed. Besides the errors below it fails as api.Store.Propose does, and with errors of its own: clients then see
// no more than a 500, as from etcd, and the log has the reason.
type Membership interface {
	// Add announces a server that will come with these addresses. Errors: ErrPeerURL, ErrMemberExists.
	Add(ctx context.Context, peerURLs []string) (Member, error)
	// Update publishes other addresses of a member. Errors: ErrNoMember, ErrMemberRemoved, ErrPeerURL.
	Update(ctx context.Context, id uint64, peerURLs []string) error
	// Remove takes a member out for good. Errors: ErrNoMember, ErrMemberRemoved, *RefusedError unless forced.
	Remove(ctx context.Context, id uint64, force bool) error
}

// Errors of a Membership. Test with errors.Is; the first two texts are what clients read.
var (
	ErrPeerURL       = errors.New("membership: peerURL exists")
	ErrMemberExists  = errors.New("membership: ID exists")
	ErrNoMember      = errors.New("membership: no such member")
	ErrMemberRemoved = errors.New("membership: member was removed for good")
)

// RefusedError: the change would harm the cluster. Clients read the reason, with status 500; etcd tells none.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "membership: " + e.Reason }

func (d *Dialect) addMember(w http.ResponseWriter, r *http.Request) {
	urls, ok := d.readURLs(w, r)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), d.cfg.Timeout)
	defer cancel()
	m, err := d.cfg.Membership.Add(ctx, urls)
	if err != nil {
		d.refuseMember(w, r, "", err)
		return
	}
	d.sendJSON(w, http.StatusCreated, m.json())
}

func (d *Dialect) changeMember(w http.ResponseWriter, r *http.Request, id string) {
	if id == "" {
		methodNotAllowed(w, "")
		return
	}
	n, err := strconv.ParseUint(id, 16, 64)
	if err != nil {
		d.refuseMember(w, r, id, ErrNoMember)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), d.cfg.Timeout)
	defer cancel()
	if r.Method == http.MethodDelete {
		err = d.cfg.Membership.Remove(ctx, n, r.URL.Query().Has("force"))
	} else {
		urls, ok := d.readURLs(w, r)
		if !ok {
			return
		}
		err = d.cfg.Membership.Update(ctx, n, urls)
	}
	if err != nil {
		d.refuseMember(w, r, id, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// refuseMember answers a change of the members that failed.
func (d *Dialect) refuseMember(w http.ResponseWriter, r *http.Request, id string, err error) {
	var refused *RefusedError
	switch {
	case errors.As(err, &refused):
		d.log.Warn("change of the members was refused", "method", r.Method, "member", id, "error", err)
		d.sendJSON(w, http.StatusInternalServerError, message{refused.Reason})
	case errors.Is(err, api.ErrNotLeader):
		api.WriteStoreError(w, err) // the relay asks the leader
	case errors.Is(err, ErrPeerURL), errors.Is(err, ErrMemberExists):
		d.sendJSON(w, http.StatusConflict, message{err.Error()})
	case errors.Is(err, ErrNoMember):
		d.sendJSON(w, http.StatusNotFound, message{"No such member: " + id})
	case errors.Is(err, ErrMemberRemoved) && r.Method == http.MethodDelete:
		d.sendJSON(w, http.StatusGone, message{"Member permanently removed: " + id})
	default:
		d.log.Warn("change of the members was refused", "method", r.Method, "member", id, "error", err)
		d.sendJSON(w, http.StatusInternalServerError, message{"Internal Server Error"})
	}
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
