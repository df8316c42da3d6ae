package members_test

import (
	"os"
	"testing"

	"github.com/musterhq/muster/internal/testcluster"
)

func TestMain(m *testing.M) { os.Exit(testcluster.Main(m)) }
