"""Real model servers under the policies of this package. Needs the extra `live`; nothing else imports it."""
