"""Model versions, promotion, rollback, waivers and the promotion history."""
