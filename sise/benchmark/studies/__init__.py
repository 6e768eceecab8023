"""Questions the papers raise: kept feature maps, sanity checks, audits."""
