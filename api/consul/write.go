package consul

import (
	"context"
	"errors"
	"net/http"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

// maxAttempts bounds how often a write is built again because somebody else changed what it was built on. Each
// lost attempt means that another write went through, so the limit is only met under absurd contention.
const maxAttempts = 32

// write builds a Txn on the present state and proposes it, and does both again while the Txn is overtaken by
// other writes. An empty Txn is not proposed: there is nothing to change. The result's Code is OK or one that
// building again would not change.
func (a *API) write(ctx context.Context, build func(*kv.Snap) (kv.Txn, error)) (kv.Result, error) {
	return proposeBuilt(ctx, a.cfg.Store, build)
}

func proposeBuilt(ctx context.Context, store api.Store, build func(*kv.Snap) (kv.Txn, error)) (kv.Result, error) {
	for range maxAttempts {
		snap, _, err := store.Read(ctx, api.Default)
		if err != nil {
			return kv.Result{}, err
		}
		txn, err := build(snap)
		if err != nil {
			return kv.Result{}, err
		}
		if len(txn.Ops) == 0 {
			return kv.Result{Index: snap.Index()}, nil
		}
		res, err := store.Propose(ctx, txn)
		if err != nil || !catalog.Stale(res.Code) {
			return res, err
		}
	}
	return kv.Result{}, refuse(http.StatusServiceUnavailable, "the write was overtaken by other writes %d times, try again", maxAttempts)
}

// inputError renders the refusal of a builder, with a prefix where the contract has one.
func inputError(err error, prefix string) error {
	var in *catalog.InputError
	if errors.As(err, &in) {
		return serverError("%s", prefix+in.Text)
	}
	return err
}

// codeError is the answer to a Txn that was refused for a reason the endpoint does not expect.
func codeError(res kv.Result) error {
	path := ""
	if res.Fail != nil {
		path = res.Fail.Path
	}
	switch res.Code {
	case kv.OK:
		return nil
	case kv.NotDir:
		return serverError("a plain entry stands in the way at %q", path)
	case kv.NotFile:
		return serverError("a directory stands at %q", path)
	case kv.BadTxn:
		return badRequest("the write is malformed or too large")
	case kv.BadVersion:
		return serverError("the cluster does not understand this write yet: a server runs an older version")
	default:
		return serverError("the write was refused with code %d at %q", res.Code, path)
	}
}
