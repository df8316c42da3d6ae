package membership

import (
	"bytes"
	"testing"

	"github.com/hashicorp/go-msgpack/v2/codec"
)

// FuzzDecodeTags feeds metadata of members, which comes from the network, to its decoder: it must refuse or give
// tags that encode again, and never panic.
func FuzzDecodeTags(f *testing.F) {
	encode := func(tags map[string]string) []byte {
		var b bytes.Buffer
		b.WriteByte(tagsMagic)
		if err := codec.NewEncoder(&b, &codec.MsgpackHandle{}).Encode(tags); err != nil {
			f.Fatal(err)
		}
		return b.Bytes()
	}
	f.Add([]byte{})
	f.Add([]byte{tagsMagic})
	f.Add([]byte("role=server"))
	f.Add(encode(map[string]string{TagID: "x", TagDatacenter: "dc1", TagServerPort: "70000"}))
	f.Fuzz(func(t *testing.T, meta []byte) {
		tags, ok := decodeTags(meta)
		if !ok {
			return
		}
		again, ok := decodeTags(encode(tags))
		if !ok || len(again) != len(tags) {
			t.Fatalf("%v does not survive another round: %v, %v", tags, again, ok)
		}
		m := Member{Addr: "127.0.0.1", Tags: tags}
		_, _, _ = m.ServerAddr(), m.HTTPAddr(), m.BootstrapExpect()
	})
}
