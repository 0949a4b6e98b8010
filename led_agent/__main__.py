from led_agent.cli import main

main()
